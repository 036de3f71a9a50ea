//! What the counters say of small kernels whose counts are known on paper.
#![allow(clippy::unwrap_used, missing_docs)]

use gdn2_vm::{Check, Class, Counters, Landing, Launch, Limits, Memory, Module, Value, run};

fn kernel(body: &str) -> String {
    format!(
        ".version 8.6\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 p)\n{{\n\
         .reg .pred %p<4>; .reg .b16 %h<9>; .reg .b32 %r<20>; .reg .f32 %f<20>; .reg .b64 %rd<9>; .reg .f64 %d<4>;\n\
         .shared .align 16 .b8 s[4096];\n\
         ld.param.u64 %rd1, [p];\nmov.u32 %r1, %tid.x;\n{body}\nret;\n}}\n"
    )
}

fn counted(body: &str, grid: u32, bytes: usize) -> Counters {
    let mut memory = Memory::new();
    let p = memory.upload("p", &vec![0; bytes]);
    let launch = Launch {
        entry: "k",
        grid: [grid, 1, 1],
        block: [32, 1, 1],
        shared_bytes: 0,
        args: &[Value::Pointer(p.0)],
        limits: Limits { shared_per_block: 48 << 10, threads_per_block: 1024, sm: 90 },
        check: Check::Basic,
        landing: Landing::Early,
        order: None,
        outputs: &[],
        count: true,
        instructions: gdn2_vm::INSTRUCTIONS,
    };
    run(&Module::parse(&kernel(body)).unwrap(), &launch, &mut memory).unwrap().counters.unwrap()
}

#[test]
fn sectors_are_distinct_over_the_whole_grid() {
    // Both blocks read the same 128 bytes twice, and each writes one byte in a sector of its own.
    let body = "mul.wide.u32 %rd2, %r1, 4; add.s64 %rd2, %rd1, %rd2; ld.global.u32 %r2, [%rd2]; \
                ld.global.u32 %r2, [%rd2]; mov.u32 %r3, %ctaid.x; mul.wide.u32 %rd3, %r3, 32; \
                add.s64 %rd3, %rd1, %rd3; setp.eq.u32 %p1, %r1, 0; @%p1 st.global.u8 [%rd3+256], %r1;";
    let c = counted(body, 2, 512);
    assert_eq!((c.global_read_sectors, c.global_write_sectors), (16, 2));
    assert_eq!((c.distinct_read_sectors, c.distinct_write_sectors), (4, 2));
}

#[test]
fn an_atomic_reads_and_writes_its_sector() {
    let c = counted("red.global.add.u32 [%rd1], 1;", 3, 64);
    assert_eq!((c.distinct_read_sectors, c.distinct_write_sectors), (1, 1));
}

#[test]
fn parts_of_a_vector_load_share_a_pass_where_no_bank_serves_two_words() {
    let passes = |body: &str| counted(&format!("mov.u32 %r2, s; {body}"), 1, 64).shared_wavefronts;
    let load = "ld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%r3];";
    // All lanes the same 16 bytes: one pass, not four. Each lane its own: four.
    assert_eq!(passes(&format!("mov.u32 %r3, %r2; {load}")), 1);
    assert_eq!(passes(&format!("shl.b32 %r3, %r1, 4; add.u32 %r3, %r3, %r2; {load}")), 4);
    // Quarters that read the same 128 bytes share one; two pairs of quarters on two lines need two.
    assert_eq!(passes(&format!("and.b32 %r3, %r1, 7; shl.b32 %r3, %r3, 4; add.u32 %r3, %r3, %r2; {load}")), 1);
    assert_eq!(passes(&format!("and.b32 %r3, %r1, 15; shl.b32 %r3, %r3, 4; add.u32 %r3, %r3, %r2; {load}")), 2);
    // Halves of eight bytes a lane likewise; stores do not merge.
    let load = "ld.shared.v2.u32 {%r4, %r5}, [%r3];";
    assert_eq!(passes(&format!("and.b32 %r3, %r1, 15; shl.b32 %r3, %r3, 3; add.u32 %r3, %r3, %r2; {load}")), 1);
    let store = "st.shared.v4.u32 [%r3], {%r1, %r1, %r1, %r1};";
    assert_eq!(passes(&format!("and.b32 %r3, %r1, 7; shl.b32 %r3, %r3, 4; add.u32 %r3, %r3, %r2; {store}")), 4);
}

#[test]
fn work_is_of_the_unit_that_does_it() {
    for (text, class) in [
        ("cvt.rn.bf16x2.f32 %r2, %f1, %f2;", Class::Convert),
        ("cvt.rn.f16x2.f32 %r2, %f1, %f2;", Class::Convert),
        ("cvt.rn.f16.f32 %h1, %f1;", Class::Convert),
        ("cvt.f32.f16 %f1, %h1;", Class::Convert),
        ("cvt.rna.tf32.f32 %r2, %f1;", Class::Convert),
        ("add.ftz.f32 %f1, %f1, %f2;", Class::Float),
        ("mul.ftz.f32 %f1, %f1, %f2;", Class::Float),
        ("fma.rn.ftz.f32 %f1, %f1, %f2, %f3;", Class::Float),
        ("max.f32 %f1, %f1, %f2;", Class::Float),
        ("setp.lt.ftz.f32 %p1, %f1, %f2;", Class::Float),
        ("setp.lt.f64 %p1, %d1, %d2;", Class::Float),
        ("setp.lt.u16 %p1, %h1, %h2;", Class::Integer),
        ("popc.b32 %r2, %r1;", Class::Integer),
        ("ex2.approx.f32 %f1, %f1;", Class::Special),
    ] {
        let module = Module::parse(&kernel(text)).unwrap();
        let own = module.instructions("k").unwrap().find(|(_, written)| *written == text);
        assert_eq!(own.map(|(class, _)| class), Some(class), "{text}");
    }
}
