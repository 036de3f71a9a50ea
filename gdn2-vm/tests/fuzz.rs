//! Spoilt PTX texts are refused or run to an end: an error, a trap, a report, never a panic.
#![allow(clippy::unwrap_used, missing_docs, reason = "a failed unwrap is a failed test")]

use gdn2_vm::{Check, Landing, Launch, Limits, Memory, Module, Trap, Value, run};
use std::fmt::Write;

const AMPERE: &str = include_str!("ptx/ampere.ptx");
const HOPPER: &str = include_str!("ptx/hopper.ptx");
const STYLES: &str = include_str!("ptx/styles.ptx");
const CONTROL: &str = include_str!("foreign/control.ptx");
const MATRIX: &str = include_str!("foreign/matrix.ptx");

struct Stream(u64);

impl Stream {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

/// A text with one to three lines left out, doubled, exchanged, cut short, or with a word of another line or a number of
/// no sense in them.
fn spoilt(text: &str, stream: &mut Stream) -> String {
    const WORDS: [&str; 14] = [
        "0",
        "-1",
        "4294967295",
        "18446744073709551615",
        "0x7fffffffffffffff",
        "%r0",
        "%rd99999",
        "[%rd1+-8]",
        "{",
        "}",
        ";",
        "\u{e9}",
        ".b128",
        "0f7FC00000",
    ];
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..1 + stream.below(3) {
        let (at, other) = (stream.below(lines.len()), stream.below(lines.len()));
        match stream.below(6) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[other].clone()),
            2 => lines.swap(at, other),
            3 => {
                let end = stream.below(lines[at].len() + 1);
                let end = (0..=end).rev().find(|end| lines[at].is_char_boundary(*end)).unwrap_or(0);
                lines[at].truncate(end);
            }
            _ => {
                let donor: Vec<String> = lines[other].split_whitespace().map(str::to_owned).collect();
                let mut words: Vec<String> = lines[at].split_whitespace().map(str::to_owned).collect();
                if words.is_empty() {
                    continue;
                }
                let place = stream.below(words.len());
                words[place] = match donor.get(stream.below(donor.len())) {
                    Some(word) if stream.below(2) == 0 => word.clone(),
                    _ => WORDS[stream.below(WORDS.len())].to_owned(),
                };
                lines[at] = words.join(" ");
            }
        }
        if lines.is_empty() {
            break;
        }
    }
    lines.join("\n")
}

/// Runs the kernels of a text on buffers of 4 KiB, as long as their parameters are pointers and words.
fn all(module: &Module) -> Vec<Result<u64, Trap>> {
    let entries: Vec<String> = module.entries().map(str::to_owned).collect();
    let mut ended = Vec::new();
    for entry in &entries {
        for pointers in 0..5 {
            let mut memory = Memory::new();
            let mut args: Vec<Value> =
                (0..pointers).map(|_| Value::Pointer(memory.upload("buffer", &[0; 4096]).0)).collect();
            args.push(Value::I32(16));
            for with_word in [true, false] {
                let launch = Launch {
                    entry,
                    grid: [2, 1, 1],
                    block: [128, 1, 1],
                    shared_bytes: 4096,
                    args: &args[..args.len() - usize::from(!with_word)],
                    limits: Limits { shared_per_block: 160 << 10, threads_per_block: 1024, sm: 90 },
                    check: Check::Full,
                    landing: Landing::Late,
                    order: None,
                    outputs: &[],
                    count: false,
                    instructions: 1 << 14,
                };
                ended.push(run(module, &launch, &mut memory).map(|report| report.instructions));
            }
        }
    }
    ended
}

#[test]
fn spoilt_texts_are_refused_or_end() {
    let (mut refused, mut trapped, mut ran) = (0, 0, 0);
    for (seed, text) in [AMPERE, HOPPER, STYLES, CONTROL, MATRIX].into_iter().enumerate() {
        let mut stream = Stream(seed as u64);
        for _ in 0..300 {
            match Module::parse(&spoilt(text, &mut stream)) {
                Err(error) => refused += usize::from(error.to_string().contains("PTX line")),
                Ok(module) => {
                    let ended = all(&module);
                    trapped += ended.iter().filter(|end| end.is_err()).count();
                    ran += ended.iter().filter(|end| end.is_ok()).count();
                }
            }
        }
    }
    assert!(refused > 300 && trapped > 300 && ran > 50, "{refused} refused, {trapped} trapped, {ran} ran");
}

/// A kernel without parameters.
fn kernel(declarations: &str, body: &str) -> String {
    format!(".version 8.0\n.target sm_80\n.address_size 64\n{declarations}\n.entry k ()\n{{\n{body}\n}}\n")
}

#[test]
fn what_no_gpu_has_is_refused() {
    let mut calls = String::new();
    for i in 0..40 {
        let next = if i == 0 { "  ret;".to_owned() } else { format!("  call f{0};\n  call f{0};\n  ret;", i - 1) };
        let _ = writeln!(calls, ".func f{i} ()\n{{\n{next}\n}}");
    }
    for (declarations, body, what) in [
        ("", ".reg .b32 %r<4294967295>;\nret;", "registers"),
        ("", ".reg .pred %p<60000>;\n.reg .pred %q<60000>;\nret;", "registers"),
        ("", ".local .align 8 .b8 a[1099511627776];\nret;", "bytes"),
        ("", ".shared .align 4294967296 .b8 a[16];\nret;", "aligned"),
        ("", ".reg .b32 %r<2>;\n.shared .b8 a[4294967295];\nmov.u32 %r0, a;\nret;", "shared"),
        (".global .b64 a[4294967295][4294967295][4294967295];", "ret;", "bytes"),
        (".global .b128 a = -1;", "ret;", ""),
        (".global .b64 a = nobody;", "ret;", "nobody"),
        (&calls, "call f39;\nret;", "instructions"),
    ] {
        match Module::parse(&kernel(declarations, body)) {
            Err(error) => assert!(error.to_string().contains(what), "{error}"),
            Ok(_) => assert_eq!(what, "", "{declarations}{body}"),
        }
    }
}

#[test]
fn absurd_launches_are_refused_and_endless_loops_end() {
    let endless = kernel("", ".reg .b64 %x<2>;\n.global .b32 g;\nL:\nld.global.u32 %r0, [g];\nbra L;");
    let endless =
        endless.replace(".global .b32 g;\nL:", ".reg .b32 %r<2>;\nL:").replace("\n.entry", "\n.global .b32 g;\n.entry");
    let module = Module::parse(&endless).unwrap();
    let go = |grid: [u32; 3], block: [u32; 3]| {
        let limits = Limits { shared_per_block: 48 << 10, threads_per_block: 1024, sm: 80 };
        let launch = Launch {
            entry: "k",
            grid,
            block,
            shared_bytes: 0,
            args: &[],
            limits,
            check: Check::Full,
            landing: Landing::Early,
            order: None,
            outputs: &[],
            count: false,
            instructions: 100_000,
        };
        run(&module, &launch, &mut Memory::new()).unwrap_err().to_string()
    };
    for (grid, block, what) in [
        ([0, 1, 1], [32, 1, 1], "dimension is 0"),
        ([1, 1, 1], [2048, 1, 1], "allows 1024"),
        ([1, 1, 1], [u32::MAX, u32::MAX, u32::MAX], "allows 1024"),
        ([u32::MAX, 1, 1], [32, 1, 1], "exceeds 2147483647"),
        ([1 << 30, 65_535, 65_535], [32, 1, 1], "at most 16777216"),
        ([1, 1, 1], [32, 1, 1], "raise it"),
    ] {
        let trap = go(grid, block);
        assert!(trap.contains(what), "{trap}");
    }
}
