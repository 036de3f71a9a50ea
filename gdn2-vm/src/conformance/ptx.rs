//! PTX text of the conformance kernels: a fixed frame around one instruction.

use super::{Expected, Kernel};
use std::fmt::Write;

/// How an operand is loaded and which register class holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// `.b32`
    Word,
    /// `.b64`
    Wide,
}

impl Class {
    pub(super) fn bytes(self) -> usize {
        match self {
            Class::Word => 4,
            Class::Wide => 8,
        }
    }

    fn register(self) -> &'static str {
        match self {
            Class::Word => "r",
            Class::Wide => "w",
        }
    }

    fn bits(self) -> usize {
        self.bytes() * 8
    }
}

/// A kernel in which thread i applies `body` to element i of each operand. The body reads `%a %b %c` and writes `%d`
/// (32-bit words) or `%wa %wb %wc` and `%wd` (64-bit); `%h0..%h7`, `%p`, `%q`, `%t`, `%u`, `%wt` are scratch.
pub(super) fn elementwise(
    name: &str,
    sm: u32,
    operands: &[Class],
    result: Class,
    body: &str,
    inputs: Vec<Vec<u8>>,
    expected: Expected,
) -> Kernel {
    let threads = inputs.first().map_or(0, |bytes| bytes.len() / operands.first().map_or(4, |class| class.bytes()));
    let mut text = header(sm, operands.len() + 1);
    for (index, class) in operands.iter().enumerate() {
        let letter = ['a', 'b', 'c'][index.min(2)];
        let target = if *class == Class::Word { format!("%{letter}") } else { format!("%w{letter}") };
        let _ = writeln!(text, "  ld.param.u64 %x0, [p{index}];\n  mad.wide.u32 %x1, %thread, {}, %x0;", class.bytes());
        let _ = writeln!(text, "  ld.global.b{} {target}, [%x1];", class.bits());
    }
    let _ = writeln!(text, "  {body}");
    let out = operands.len();
    let target = if result.register() == "r" { "%d" } else { "%wd" };
    let _ = writeln!(text, "  ld.param.u64 %x0, [p{out}];\n  mad.wide.u32 %x1, %thread, {}, %x0;", result.bytes());
    let _ = writeln!(text, "  st.global.b{} [%x1], {target};\n  ret;\n}}", result.bits());
    Kernel { threads: threads as u32, ..Kernel::new(name, sm, text, inputs, expected) }
}

/// The opening of a kernel with `params` 64-bit parameters `p0…`, registers declared, `%thread` holding the thread index.
pub(super) fn header(sm: u32, params: usize) -> String {
    let (version, suffix) = if sm >= 90 { ("8.0", "a") } else { ("7.8", "") };
    let list: Vec<String> = (0..params).map(|i| format!(".param .u64 p{i}")).collect();
    format!(
        ".version {version}\n.target sm_{sm}{suffix}\n.address_size 64\n\n.visible .entry k({})\n{{\n  \
         .reg .b32 %a, %b, %c, %d, %t, %u, %thread, %lane;\n  .reg .b32 %r<64>;\n  .reg .f32 %f<64>;\n  \
         .reg .b64 %wa, %wb, %wc, %wd, %wt, %x<8>;\n  .reg .b16 %h<8>;\n  .reg .pred %p, %q;\n  \
         mov.u32 %thread, %tid.x;\n  and.b32 %lane, %thread, 31;\n",
        list.join(", ")
    )
}

/// Little-endian bytes of words.
pub(super) fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Little-endian bytes of 64-bit words.
pub(super) fn wides(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
