//! PTX as compilers and people write it: layouts, initial values, registers of any width, rules of rounding.
#![allow(clippy::unwrap_used, missing_docs)]

use gdn2_vm::{Check, Landing, Launch, Limits, LoadError, Memory, Module, Report, SharedAlignment, Value, run};

/// A module whose kernel `k` has `out` in %rd1.
fn module(top: &str, body: &str) -> String {
    format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n{top}\n.visible .entry k(.param .u64 out)\n{{\n\
         .reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<30>; .reg .b64 %rd<20>; .reg .f32 %f<9>; .reg .f64 %d<9>;\n\
         ld.param.u64 %rd1, [out];\n{body}\nret;\n}}\n"
    )
}

fn go(ptx: &str, threads: u32) -> (Vec<u64>, Report) {
    given(&Module::parse(ptx).unwrap_or_else(|e| panic!("{e}: {ptx}")), threads, ptx)
}

fn given(module: &Module, threads: u32, ptx: &str) -> (Vec<u64>, Report) {
    let mut memory = Memory::new();
    let out = memory.upload("out", &[0; 512]);
    let launch = Launch {
        entry: "k",
        grid: [1, 1, 1],
        block: [threads, 1, 1],
        shared_bytes: 0,
        args: &[Value::Pointer(out.0)],
        limits: Limits { shared_per_block: 48 << 10, threads_per_block: 1024, sm: 90 },
        check: Check::Full,
        landing: Landing::Early,
        order: None,
        outputs: &[],
        count: false,
        instructions: gdn2_vm::INSTRUCTIONS,
    };
    let report = run(module, &launch, &mut memory).unwrap();
    assert_eq!(report.findings, [], "{ptx}");
    (memory.read(out).chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect(), report)
}

/// What one thread stores in 64-bit words at `out`.
fn words(top: &str, body: &str, n: usize) -> Vec<u64> {
    go(&module(top, body), 1).0[..n].to_vec()
}

/// 32-bit values, each loaded from an address.
fn loaded(top: &str, space: &str, addresses: &[&str]) -> Vec<u64> {
    let load = |(i, a): (usize, &&str)| {
        format!("ld.{space}.b32 %r1, [{a}]; cvt.u64.u32 %rd2, %r1; st.global.b64 [%rd1+{}], %rd2;\n", 8 * i)
    };
    words(top, &addresses.iter().enumerate().map(load).collect::<String>(), addresses.len())
}

fn refused(ptx: &str) -> LoadError {
    Module::parse(ptx).unwrap_err()
}

#[test]
fn a_move_of_vectors_reads_all_before_it_writes() {
    let body = "mov.u32 %r1, 1; mov.u32 %r2, 2; mov.u32 %r3, 3; mov.u32 %r4, 4;\n\
                mov.v4.b32 {%r4, %r1, %r2, %r3}, {%r3, %r4, %r1, %r2};\n\
                st.global.v4.b32 [%rd1], {%r1, %r2, %r3, %r4};";
    assert_eq!(words("", body, 2), [4 | 1 << 32, 2 | 3 << 32]);
}

#[test]
fn white_space_is_all_alike() {
    let body = ".visible .entry k(.param .u64 out) { .reg .b64 %rd<3>; ld.param.u64 %rd1, [out]; mov.b64 %rd2, 7; \
                st.global.b64 [%rd1], %rd2; ret; }";
    for ptx in [
        format!(".version 8.0 .target sm_80 .address_size 64 {body}"),
        format!(".version\n8.0\n.target sm_80,\n  debug\n.address_size\n64\n{body}"),
        format!(".version 8.0 .target sm_80 .address_size 64 .file 1 \"a.cu\", 1, 2 {body}"),
        format!(".version 8.0 .target sm_80 .address_size 64 {}", body.replace("st.global", "st.global\n ")),
        format!(".version 8.0 .target sm_80 .address_size 64 {}", body.replace("st.global.b64", "st .global .b64")),
        format!(".version 8.0 .target sm_80 .address_size 64 {}", body.replace("mov", ".loc 1 3 4 mov")),
        format!(
            ".version 8.0 .target sm_80 .address_size 64 {}",
            body.replace("mov", ".loc 1 3 4, function_name $L__info_string0, inlined_at 1 9 2 mov")
        ),
    ] {
        assert_eq!(go(&ptx, 1).0[0], 7, "{ptx}");
    }
}

#[test]
fn a_directive_that_nobody_knows_is_refused_where_it_is() {
    // One without white space behind it is read as two.
    assert_eq!(refused(".v.v"), LoadError::Unknown { line: 1, instruction: ".v".to_owned() });
    let top = ".version 8.0 .target sm_80 .address_size 64\n.visible .entry k(.param .u64 out)";
    for rest in ["\n.some.thing 3 { ret; }", "{\n.some.thing 3; ret; }"] {
        let refused = refused(&format!("{top} {rest}"));
        assert!(matches!(refused, LoadError::Unknown { line: 3, .. }), "{rest}: {refused}");
    }
    let refused = refused(&format!("{top}\n.reqntid 4294967297 {{ ret; }}"));
    assert!(refused.to_string().contains("4294967297 threads"), "{refused}");
}

#[test]
fn sizes_from_a_text_have_limits() {
    let with = |line: &str| refused(&module("", line)).to_string();
    let start = std::time::Instant::now();
    assert!(with(".loc 300000000 1 1").contains("file number 300000000: at most"));
    assert!(with(".loc 4294967295 1 1").contains("PTX line 9: file number"));
    assert!(with(".loc 1 1 1, function_name f, inlined_at 900000000 1 1").contains("file number"));
    assert!(with(".loc 1 99999999999 1").contains("line 99999999999"));
    assert!(refused(".version 8.0\n.file 123456789 \"a\"").to_string().contains("PTX line 2: file number 123456789"));
    assert!(refused(&module(".global .b8 x[][1099511627776] = {{1}, {2}};", "")).to_string().contains("at most"));
    assert!(refused(&module(".global .b8 x[2] = {1, 2, 3};", "")).to_string().contains("more initial values"));
    assert!(
        refused(&module(&format!(".global .b8 x = {}1{};", "(".repeat(5000), ")".repeat(5000)), ""))
            .to_string()
            .contains("nested")
    );
    assert!(
        refused(&module(&format!(".global .b8 x[1] = {}1{};", "{".repeat(5000), "}".repeat(5000)), ""))
            .to_string()
            .contains("nested")
    );
    assert!(start.elapsed().as_secs() < 5);
}

#[test]
fn an_initial_value_takes_the_type_of_its_variable() {
    let top = ".const .f32 vals[8] = { 0.33, 0.25, 0.125 };\n.global .f32 one = 1.5;\n.global .f16 halves[2] = { 1.5, -2.0 };\n\
               .global .f64 wide = 0.1;\n.global .f32 whole = 3;\n.global .f32 bits = 0f3F800000;\n\
               .global .f64 raised = 0f3F800000;\n.global .f32 tiny = 1.5e-3;";
    let addresses = ["vals", "vals+4", "vals+12"];
    assert_eq!(loaded(top, "const", &addresses), [0x3ea8_f5c3, 0x3e80_0000, 0]);
    let addresses = ["one", "halves", "wide", "whole", "bits", "raised+4", "tiny"];
    let wide = 0.1f64.to_bits() & 0xffff_ffff;
    let expected =
        [0x3fc0_0000, 0xc000_3e00, wide, 0x4040_0000, 0x3f80_0000, 0x3ff0_0000, u64::from(1.5e-3f32.to_bits())];
    assert_eq!(loaded(top, "global", &addresses), expected);
}

#[test]
fn initial_values_nest_as_the_dimensions_do() {
    let top = ".global .u32 index[] = { 10, 11, 12, 13 };\n.global .s32 offset[][2] = { {-1, 0}, {0, -1} };\n\
               .global .u32 part[2][3] = { {1}, {2, 3} };\n.global .u32 flat[2][2] = { 1, 2, 3 };\n\
               .global .v2 .u32 pairs[] = { {1, 2}, {3, 4} };\n.global .u32 math[4] = { 1 + 2 * 3, (1 << 4) | 1, -7 / 2, 5 > 3 ? 8 : 9 };";
    let minus = 0xffff_ffff;
    assert_eq!(loaded(top, "global", &["index+12", "offset", "offset+12"]), [13, minus, minus]);
    assert_eq!(loaded(top, "global", &["part", "part+4", "part+12", "part+16", "part+20"]), [1, 0, 2, 3, 0]);
    assert_eq!(loaded(top, "global", &["flat+4", "flat+8", "flat+12", "pairs+12"]), [2, 3, 0, 4]);
    assert_eq!(loaded(top, "global", &["math", "math+4", "math+8", "math+12"]), [7, 17, 0xffff_fffd, 8]);
    // Addresses, with what is added to them.
    let top = ".global .u32 to[4] = { 5, 6, 7, 8 };\n.global .u64 at[2] = { generic(to) + 8, to };";
    let body =
        "ld.global.u64 %rd2, [at]; ld.global.u32 %r1, [%rd2]; cvt.u64.u32 %rd3, %r1; st.global.u64 [%rd1], %rd3;";
    assert_eq!(words(top, body, 1), [7]);
}

#[test]
fn functions_declare_variables_of_the_module_and_parameters_without_spaces() {
    let body = ".global .b32 from[4] = { 1, 2, 3, 4}; mov.u64 %rd3, from; ld.global.u32 %r2, [%rd3+4]; st.global.u32 [%rd1], %r2;";
    assert_eq!(words(".global .u32 before = 9;", body, 1), [2]);
    let top = ".func (.param.b32 rv) f (.param.b32 a) { .reg .b32 %r<2>; .global .b32 from[2] = {30, 40};\n\
               ld.param.b32 %r1, [a]; ld.global.u32 %r0, [from+4]; add.u32 %r1, %r1, %r0; st.param.b32 [rv], %r1; ret; }";
    let body = "mov.u32 %r1, 2; { .param .b32 p0; st.param.b32 [p0], %r1; .param .b32 rv; call.uni (rv), f, (p0);\n\
                ld.param.b32 %r2, [rv]; } { .param.b32 p0; st.param.b32 [p0], %r2; .param.b32 rv; call .uni (rv), f, (p0);\n\
                ld.param.b32 %r2, [rv]; } st.global.u32 [%rd1], %r2;";
    assert_eq!(words(top, body, 1), [82]);
}

#[test]
fn registers_come_as_vectors() {
    let body = ".reg .v2 .b32 v; .reg.v4 .f32 w; mov.u32 %r1, 3; mov.u32 %r2, 4; mov.v2.b32 v, {%r1, %r2};\n\
                st.global.v2.b32 [%rd1], v; mov.b32 %r3, v.y; st.global.b32 [%rd1+8], %r3; ld.global.v4.f32 w, [%rd1];\n\
                st.global.f32 [%rd1+16], w.y;";
    assert_eq!(words("", body, 3), [4 << 32 | 3, 4, 4]);
    let body = ".reg .v2.b32 v<3>; mov.u32 %r1, 3; mov.u32 %r2, 4; mov.v2.b32 v1, {%r1, %r2}; mov.v2.b32 v2, {%r2, %r1};\n\
                st.global.v2.b32 [%rd1], v2; st.global.v2.b32 [%rd1+8], v1; mov.b32 %r3, v2.x; st.global.b32 [%rd1+16], %r3;";
    assert_eq!(words("", body, 3), [3 << 32 | 4, 4 << 32 | 3, 4]);
}

#[test]
fn integer_instructions_of_few_bits_and_many() {
    let one = |body: &str| words("", &format!("mov.u32 %r1, 5; mov.u64 %rd2, 5; {body}"), 1)[0];
    let word = |text: &str| one(&format!("{text} cvt.u64.u32 %rd3, %r2; st.global.u64 [%rd1], %rd3;"));
    assert_eq!(word("mul24.lo.s32 %r2, %r1, 16;"), 80);
    assert_eq!(word("mul24.lo.u32 %r2, 0xff000003, 0x01000005;"), 15);
    assert_eq!(word("mul24.hi.u32 %r2, 0xffffff, 0xffffff;"), 0xffff_fe00);
    assert_eq!(word("mul24.lo.s32 %r2, 0xffffff, 3;"), 0xffff_fffd);
    assert_eq!(word("mad24.lo.s32 %r2, %r1, 16, 7;"), 87);
    assert_eq!(word("bmsk.clamp.b32 %r2, %r1, 4;"), 0x1e0);
    assert_eq!(word("bmsk.clamp.b32 %r2, 28, 99;"), 0xf000_0000);
    assert_eq!(word("bmsk.wrap.b32 %r2, 33, 33;"), 2);
    assert_eq!(word("szext.clamp.s32 %r2, 0xff, 8;"), 0xffff_ffff);
    assert_eq!(word("szext.wrap.u32 %r2, 0xabcd, 40;"), 0xcd);
    assert_eq!(word("sad.s32 %r2, 0xfffffffe, %r1, 10;"), 17);
    assert_eq!(
        one("mov.u64 %rd4, 0xfffffffffffffffe; sad.s64 %rd3, %rd4, %rd2, %rd2; st.global.u64 [%rd1], %rd3;"),
        12
    );
    assert_eq!(
        one(
            "mov.b16 %h1, 0xffff; mov.b16 %h2, 1; sad.u16 %h3, %h1, %h2, %h2; cvt.u64.u16 %rd3, %h3; st.global.u64 [%rd1], %rd3;"
        ),
        0xffff
    );
}

#[test]
fn a_conversion_may_have_wider_registers() {
    let one = |body: &str| {
        words("", &format!("mov.b64 %rd2, 0x180; mov.b32 %r1, 0x1ff; {body} st.global.b64 [%rd1], %rd3;"), 1)[0]
    };
    assert_eq!(one("cvt.s64.s8 %rd3, %rd2;"), 0xffff_ffff_ffff_ff80);
    assert_eq!(one("cvt.u32.u8 %r2, %rd2; cvt.u64.u32 %rd3, %r2;"), 0x80);
    assert_eq!(one("cvt.s64.s16 %rd3, %rd2;"), 0x180);
    assert_eq!(one("cvt.s64.s32 %rd3, %rd2;"), 0x180);
    assert_eq!(one("cvt.u8.u32 %rd3, %r1;"), 0xff);
    assert_eq!(one("cvt.s8.s32 %rd3, %r1;"), u64::MAX);
    // What a 16-bit register holds is 16 bits.
    assert_eq!(one("cvt.s8.s32 %h1, %r1; mov.b32 %r2, {%h1, %h1}; cvt.u64.u32 %rd3, %r2;"), 0xffff_ffff);
    assert_eq!(one("cvt.rn.f32.s64 %f1, %rd2; mov.b32 %r2, %f1; cvt.u64.u32 %rd3, %r2;"), u64::from(384f32.to_bits()));
    let error = refused(&module("", "cvt.f64.f32 %d1, %d2;"));
    assert!(error.to_string().contains("does not know"), "{error}");
}

#[test]
fn conversions_round_once_and_a_nan_becomes_an_integer_by_the_manual() {
    let of = |text: &str| words("", &format!("mov.f64 %d1, 0d7FF8000000000000; mov.f32 %f1, 0f7FC00000; {text}"), 1)[0];
    let word = |text: &str| of(&format!("{text} cvt.u64.u32 %rd3, %r2; st.global.u64 [%rd1], %rd3;"));
    assert_eq!(word("cvt.rzi.s32.f64 %r2, %d1;"), 0x8000_0000);
    assert_eq!(word("cvt.rzi.u32.f64 %r2, %d1;"), 0x8000_0000);
    assert_eq!(word("cvt.rzi.s32.f32 %r2, %f1;"), 0);
    assert_eq!(of("cvt.rzi.s16.f64 %h1, %d1; cvt.u64.u16 %rd3, %h1; st.global.u64 [%rd1], %rd3;"), 0x8000);
    assert_eq!(of("cvt.rzi.s64.f64 %rd3, %d1; st.global.u64 [%rd1], %rd3;"), 1 << 63);
    assert_eq!(of("cvt.rzi.u64.f32 %rd3, %f1; st.global.u64 [%rd1], %rd3;"), 1 << 63);
    // 2^53 + 1 lies between two doubles; 2^24 + 1 + 2^-29 of itself between two floats, above their middle.
    let double = |how: &str| {
        of(&format!("mov.u64 %rd2, 0x20000000000001; cvt.{how}.f64.s64 %d2, %rd2; st.global.f64 [%rd1], %d2;"))
    };
    assert_eq!((double("rz"), double("rp")), (2f64.powi(53).to_bits(), (2f64.powi(53) + 2.0).to_bits()));
    // 2049 + 2^-52 of it in f16: from a 64-bit integer in one rounding, not by way of a double.
    let half = |v: u64| {
        of(&format!("mov.u64 %rd2, {v}; cvt.rn.f16.u64 %h1, %rd2; cvt.u64.u16 %rd3, %h1; st.global.u64 [%rd1], %rd3;"))
    };
    assert_eq!((half(2049), half(2051)), (0x6800, 0x6802));
    let bf16 = |v: u64| {
        of(&format!("mov.u64 %rd2, {v}; cvt.rn.bf16.u64 %h1, %rd2; cvt.u64.u16 %rd3, %h1; st.global.u64 [%rd1], %rd3;"))
    };
    let middle = (1u64 << 62) + (1 << 54);
    assert_eq!((bf16(middle), bf16(middle + 1)), (0x5e80, 0x5e81));
}

#[test]
fn subnormals_are_flushed_in_every_type_that_says_so() {
    let bit = |text: &str| {
        let body = format!(
            "mov.b16 %h1, 0x3C00; mov.b16 %h2, 0x4000; mov.b16 %h3, 1; mov.b16 %h4, 0; mov.b32 %r1, 0x00013C00;\n\
             mov.b32 %r2, 0x00004000; mov.b32 %r4, 0x80000001; {text} selp.u64 %rd3, 1, 0, %p1; st.global.b64 [%rd1], %rd3;"
        );
        words("", &body, 1)[0]
    };
    assert_eq!(bit("setp.lt.ftz.f16 %p1, %h1, %h2;"), 1);
    assert_eq!(bit("setp.eq.ftz.f16 %p1, %h1, %h2;"), 0);
    assert_eq!((bit("setp.eq.ftz.f16 %p1, %h3, %h4;"), bit("setp.eq.f16 %p1, %h3, %h4;")), (1, 0));
    assert_eq!(bit("setp.eq.ftz.f16x2 %p2|%p1, %r1, %r2;"), 1);
    assert_eq!(bit("setp.eq.f16x2 %p2|%p1, %r1, %r2;"), 0);
    assert_eq!(bit("set.lt.ftz.u32.f16 %r3, %h1, %h2; setp.eq.u32 %p1, %r3, 0xffffffff;"), 1);
    assert_eq!(bit("set.eq.ftz.f16x2.f16x2 %r3, %r1, %r2; setp.eq.u32 %p1, %r3, 0x3c000000;"), 1);
    // slct: a subnormal below zero is a zero, which is not below it.
    assert_eq!(bit("mov.b32 %f1, %r4; slct.ftz.u32.f32 %r3, 1, 2, %f1; setp.eq.u32 %p1, %r3, 1;"), 1);
    assert_eq!(bit("mov.b32 %f1, %r4; slct.u32.f32 %r3, 1, 2, %f1; setp.eq.u32 %p1, %r3, 2;"), 1);
}

#[test]
fn an_operand_too_many_is_refused() {
    for text in [
        "max.f32 %f4, %f1, %f2, %f3;",
        "add.s32 %r1, %r1, %r1, %r1;",
        "mov.u32 %r1, %r2, %r3;",
        "ld.global.u32 %r1, [%rd1], %r2;",
        "st.global.u32 [%rd1], %r1, %r2;",
        "bar.sync 0, 32, 1;",
        "cvt.u32.u16 %r1, %h1, %h2;",
        "setp.eq.u32 %p1, %r1, %r2, %p2;",
        "ret 1;",
    ] {
        assert!(matches!(refused(&module("", text)), LoadError::Unknown { line: 9, .. }), "{text}");
    }
}

#[test]
fn matrices_are_loaded_through_generic_addresses_of_shared_memory() {
    let body = ".shared .align 16 .b8 tile[256]; mov.u32 %r1, %tid.x; mov.u32 %r9, tile; shl.b32 %r3, %r1, 2; \
                add.u32 %r9, %r9, %r3; st.shared.u32 [%r9], %r1; bar.warp.sync 0xffffffff; mov.u64 %rd3, tile; \
                cvta.shared.u64 %rd3, %rd3; and.b32 %r4, %r1, 7; mul.wide.u32 %rd4, %r4, 16; add.u64 %rd3, %rd3, %rd4; \
                ldmatrix.sync.aligned.m8n8.x1.b16 {%r2}, [%rd3]; mul.wide.u32 %rd5, %r1, 4; add.u64 %rd5, %rd1, %rd5; \
                st.global.u32 [%rd5], %r2;";
    let (words, _) = go(&module("", body), 32);
    assert!((0..16).all(|i| words[i] == (((2 * i as u64 + 1) << 32) | (2 * i as u64))), "{words:?}");
}

#[test]
fn a_kernel_prints() {
    let top = ".extern .func (.param .b32 rv) vprintf (.param .b64 a, .param .b64 b);\n\
               .global .b8 text[32] = {37, 100, 32, 37, 53, 46, 50, 102, 124, 37, 120, 32, 37, 115, 10, 0};\n\
               .global .b8 name[4] = {97, 98, 99, 0};";
    let body = ".local .align 8 .b8 args[32]; mov.u32 %r1, %tid.x; add.u64 %rd2, %rd1, 0; mov.u64 %rd3, args;\n\
                cvta.local.u64 %rd3, %rd3; mov.f64 %d1, 2.5; mov.u64 %rd4, name; mov.u64 %rd5, text;\n\
                st.local.u32 [args], %r1; st.local.f64 [args+8], %d1; st.local.u32 [args+16], 255; st.local.u64 [args+24], %rd4;\n\
                { .param .b64 p0; st.param.b64 [p0], %rd5; .param .b64 p1; st.param.b64 [p1], %rd3; .param .b32 rv;\n\
                call.uni (rv), vprintf, (p0, p1); ld.param.b32 %r2, [rv]; } st.global.u32 [%rd1], %r2;";
    let (words, report) = go(&module(top, body), 2);
    assert_eq!(report.printed, "0  2.50|ff abc\n1  2.50|ff abc\n");
    assert_eq!(words[0], 4);
}

/// Shared memory has the alignment that was declared, and no stronger one by chance; a stronger one where it is asked for.
#[test]
fn shared_memory_starts_at_an_odd_multiple_of_its_alignment() {
    let start = "mov.u64 %rd2, s; st.global.b64 [%rd1], %rd2;";
    for align in [16, 32, 128, 512, 1024] {
        let top = format!(".shared .align {align} .b8 s[64];");
        let at = words(&top, start, 1)[0];
        assert_eq!(at % (2 * align), align, "declared {align}, starts at {at}");
        let ptx = module(&top, start);
        let at = given(&Module::parse_aligned(&ptx, SharedAlignment::DRIVER).unwrap(), 1, &ptx).0[0];
        assert_eq!(at % 1024, 0, "declared {align}, starts at {at} where drivers start at 1024");
    }
}

#[test]
fn operands_may_be_computed_from_constants() {
    let integers = [
        ("(1+2)*3", 9),
        ("1<2?7:8", 7),
        ("(.s64)-1", u64::MAX),
        ("-(-3)", 3),
        ("!0", 1),
        ("!(2>1)", 0),
        ("~5&0xff", 0xfa),
        ("-4", -4i64 as u64),
        ("2+3*4", 14),
    ];
    let store = |(i, (text, _)): (usize, &(&str, u64))| {
        format!("mov.b64 %rd2, {text}; st.global.b64 [%rd1+{}], %rd2;\n", 8 * i)
    };
    let body: String = integers.iter().enumerate().map(store).collect();
    assert_eq!(words("", &body, integers.len()), integers.map(|(_, value)| value));
    let floats = "mov.f64 %d1, .5; st.global.f64 [%rd1], %d1; mov.f64 %d1, -1.5; st.global.f64 [%rd1+8], %d1;";
    assert_eq!(words("", floats, 2), [0.5f64.to_bits(), (-1.5f64).to_bits()]);
    // Brackets of a call hold its arguments.
    let callee = ".func (.reg .b64 %back) f(.reg .b64 %given) { add.s64 %back, %given, 1; ret; }";
    assert_eq!(words(callee, "call (%rd2), f, (41); st.global.b64 [%rd1], %rd2;", 1), [42]);
    for broken in ["(1", "1?2", "!", "-%r1", "1?1.5", "(%r1)"] {
        refused(&module("", &format!("mov.b64 %rd2, {broken};")));
    }
}

#[test]
fn clusters_of_one_block_and_hints_are_taken() {
    let text = module(".pragma \"nounroll\";", "mov.b64 %rd2, 5;\nst.global.b64 [%rd1], %rd2;");
    let with = |directives: &str| text.replace("(.param .u64 out)\n", &format!("(.param .u64 out)\n{directives}\n"));
    for directives in [".explicitcluster .reqnctapercluster 1, 1, 1", ".reqnctapercluster 1", ".maxclusterrank 8"] {
        assert_eq!(go(&with(directives), 1).0[0], 5, "{directives}");
    }
    assert!(refused(&with(".reqnctapercluster 2, 1, 1")).to_string().contains("clusters of 2 blocks"));
    let ranks = "getctarank.u64 %r1, %rd1; add.u32 %r1, %r1, %envreg3; mov.u32 %r2, %pm1; add.u32 %r1, %r1, %r2; \
                 cvt.u64.u32 %rd2, %r1; st.global.b64 [%rd1], %rd2;";
    assert_eq!(words("", ranks, 1), [0]);
    refused(&module("", "mov.u32 %r1, %envreg32;"));
}
