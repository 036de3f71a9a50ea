//! A launch file to begin with: what a kernel takes, from its PTX and, where there is one, its CUDA text.

use std::fmt::Write as _;

use gdn2_vm::Parameter;
use serde_json::{Value, json};

use super::kernels::Loaded;

/// Elements of a buffer that nobody knows the size of.
const ELEMENTS: u32 = 1024;
/// Where a whole number is a size, as it mostly is.
const SIZE: u32 = 32;
/// Bytes of a tensor map.
const MAP: u32 = 128;

/// A parameter as the CUDA text has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Declared {
    name: String,
    /// Words of the type before the name.
    words: Vec<String>,
    pointer: bool,
}

/// The launch file of an entry, with this grid and block where they are given.
pub fn launch_file(loaded: &Loaded, entry: &str, grid: &[u32], block: &[u32]) -> Option<String> {
    let mut parameters: Vec<Parameter<'_>> = loaded.module.parameters(entry)?.collect();
    if loaded.triton.is_some() {
        // Two pointers of Triton's own, which are added where they are left out.
        parameters.truncate(parameters.len().saturating_sub(2));
    }
    let declared = loaded.source.as_ref().and_then(|(_, text)| declared(text, entry));
    let declared = declared.filter(|all| all.len() == parameters.len());
    let asked = loaded.module.threads(entry).map(|(threads, _)| threads.to_vec());
    let warps = loaded.triton.as_ref().map(|triton| vec![triton.threads()]);
    let mut own = asked.or(warps).unwrap_or(vec![128]);
    while own.len() > 1 && own.last() == Some(&1) {
        own.pop();
    }
    let block = if block.is_empty() { &own } else { block };
    let grid = if grid.is_empty() { &[1][..] } else { grid };
    let shared = loaded.triton.as_ref().map_or(0, |triton| triton.shared);
    let (mut buffers, mut args) = (Vec::new(), Vec::new());
    for (index, parameter) in parameters.iter().enumerate() {
        let declared = declared.as_ref().map(|all| &all[index]);
        let name = declared.map_or_else(|| format!("p{index}"), |declared| declared.name.clone());
        let pointer = parameter.pointer || declared.is_some_and(|declared| declared.pointer);
        let array = parameter.ty == ".b8";
        args.push(if pointer && !array {
            let (buffer, value) = (name.clone(), buffer(declared));
            buffers.push((name, value));
            json!({ "buffer": buffer })
        } else if array && parameter.bytes == MAP {
            buffers.push((name.clone(), json!({ "dtype": "BF16", "shape": [64, 64], "fill": "random" })));
            let map =
                json!({ "buffer": name, "element": "bf16", "dims": [64, 64], "strides": [128], "tile": [64, 64] });
            json!({ "tensor_map": map })
        } else if array {
            json!({ "bytes": vec![0; parameter.bytes as usize] })
        } else {
            scalar(parameter, declared)
        });
    }
    let mut text = format!("{{\n  \"grid\": {},\n  \"block\": {},\n", json!(grid), json!(block));
    let _ = writeln!(text, "  \"shared_bytes\": {shared},\n  \"buffers\": {{");
    lines(&mut text, buffers.iter().map(|(name, buffer)| format!("{}: {buffer}", json!(name))));
    text += "  },\n  \"args\": [\n";
    lines(&mut text, args.iter().map(Value::to_string));
    text += "  ]\n}\n";
    Some(text)
}

fn lines(text: &mut String, items: impl ExactSizeIterator<Item = String>) {
    let last = items.len().saturating_sub(1);
    for (index, item) in items.enumerate() {
        let _ = writeln!(text, "    {item}{}", if index == last { "" } else { "," });
    }
}

/// The dtype of a CUDA type, and the name of its scalars in a launch file.
fn named(words: &[String]) -> Option<(&'static str, &'static str)> {
    let words: Vec<&str> = words
        .iter()
        .map(|word| word.rsplit("::").next().unwrap_or_default())
        .filter(|word| !["const", "__restrict__", "restrict", "volatile", "__grid_constant__"].contains(word))
        .collect();
    Some(match words.join(" ").as_str() {
        "float" => ("F32", "f32"),
        "double" => ("F64", "f64"),
        "__half" | "half" => ("F16", "f16"),
        "__nv_bfloat16" | "nv_bfloat16" => ("BF16", "bf16"),
        "bool" => ("BOOL", "bool"),
        "char" | "signed char" | "int8_t" => ("I8", "i8"),
        "unsigned char" | "uint8_t" => ("U8", "u8"),
        "short" | "int16_t" => ("I16", "i16"),
        "unsigned short" | "uint16_t" => ("U16", "u16"),
        "int" | "int32_t" => ("I32", "i32"),
        "unsigned" | "unsigned int" | "uint32_t" => ("U32", "u32"),
        "long" | "long long" | "int64_t" | "ptrdiff_t" => ("I64", "i64"),
        "unsigned long" | "unsigned long long" | "uint64_t" | "size_t" => ("U64", "u64"),
        _ => return None,
    })
}

/// What is read alone is filled; what may be written is an output and begins as NaN.
fn buffer(declared: Option<&Declared>) -> Value {
    let Some(declared) = declared else { return json!({ "bytes": 4 * ELEMENTS, "fill": "zero" }) };
    let dtype = named(&declared.words).map(|(dtype, _)| dtype);
    let constant = declared.words.iter().any(|word| word == "const");
    match (dtype, constant) {
        (Some(dtype), true) => json!({ "dtype": dtype, "shape": [ELEMENTS], "fill": "random" }),
        (Some(dtype), false) => json!({ "dtype": dtype, "shape": [ELEMENTS], "output": true }),
        (None, true) => json!({ "bytes": 4 * ELEMENTS, "fill": "zero" }),
        (None, false) => json!({ "bytes": 4 * ELEMENTS, "output": true }),
    }
}

fn scalar(parameter: &Parameter<'_>, declared: Option<&Declared>) -> Value {
    let named = declared.and_then(|declared| named(&declared.words)).map(|(_, scalar)| scalar);
    let by_text = match parameter.ty {
        ".f32" => "f32",
        ".f64" => "f64",
        ".u64" | ".s64" | ".b64" => "i64",
        ".u16" | ".s16" | ".b16" => "u16",
        ".u8" | ".s8" => "u8",
        _ => "i32",
    };
    match named.unwrap_or(by_text) {
        "bool" => json!({ "bool": true }),
        float if float.contains('f') => json!({ float: 1.0 }),
        whole => json!({ whole: SIZE }),
    }
}

/// The text without comments.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("//").into_iter().chain(rest.find("/*")).min() {
        out.push_str(&rest[..at]);
        out.push(' ');
        let end = if rest[at..].starts_with("//") { "\n" } else { "*/" };
        // The two characters that begin it are not its end.
        let body = &rest[at + 2..];
        rest = body.find(end).map_or("", |to| &body[to + end.len()..]);
        if end == "\n" {
            out.push('\n');
        }
    }
    out + rest
}

/// The name in the source: of a mangled one, what it begins with.
fn plain(entry: &str) -> &str {
    let Some(mangled) = entry.strip_prefix("_Z") else { return entry };
    let digits = mangled.len() - mangled.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let length: usize = mangled[..digits].parse().unwrap_or(0);
    mangled.get(digits..digits.saturating_add(length)).filter(|name| !name.is_empty()).unwrap_or(entry)
}

/// Parameters of the kernel of this name as the text declares them.
fn declared(text: &str, entry: &str) -> Option<Vec<Declared>> {
    let text = without_comments(text);
    let name = plain(entry);
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(name).find_map(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        if before.ends_with(is_word) || !after.trim_start().starts_with('(') {
            return None;
        }
        let statement = before.rfind([';', '}']).map_or(before, |end| &before[end..]);
        if !statement.contains("__global__") {
            return None;
        }
        let list = within_brackets(after)?;
        if list.trim().is_empty() {
            return Some(Vec::new());
        }
        // Which parameters there are is the preprocessor's to say: the PTX knows.
        if list.contains('#') {
            return None;
        }
        split(list).into_iter().map(parameter).collect()
    })
}

/// What is between a bracket and the one that closes it.
fn within_brackets(text: &str) -> Option<&str> {
    let open = text.find('(')?;
    let mut depth = 0;
    for (at, c) in text.char_indices().skip_while(|(at, _)| *at < open) {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return text.get(open + 1..at);
        }
    }
    None
}

/// Parts between commas that no bracket holds.
fn split(list: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in list.char_indices() {
        match c {
            '(' | '<' | '[' => depth += 1,
            ')' | '>' | ']' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&list[start..]);
    parts
}

fn parameter(text: &str) -> Option<Declared> {
    let text = text.split('=').next()?.trim();
    let (text, array) = text.split_once('[').map_or((text, false), |(text, _)| (text.trim_end(), true));
    let at = text.rfind(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).map_or(0, |at| at + 1);
    let (ty, name) = text.split_at(at);
    if name.is_empty() || ty.trim().is_empty() {
        return None;
    }
    let words = ty.split(|c: char| c.is_whitespace() || c == '*' || c == '&').filter(|word| !word.is_empty());
    Some(Declared {
        name: name.to_owned(),
        words: words.map(str::to_owned).collect(),
        pointer: array || ty.contains('*'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str, entry: &str) -> Option<Vec<(String, bool)>> {
        Some(declared(text, entry)?.into_iter().map(|one| (one.name, one.pointer)).collect())
    }

    #[test]
    fn parameters_are_read_from_cuda_as_people_write_it() {
        let text = "
            // gemm(a, b) in short
            void gemm(int);  /* gemm(x) */
            template <class T> __global__ void __launch_bounds__(256, 2)
            gemm(const float *__restrict__ a, /* of n, by m */ T* const b, std::pair<int, int> size, int n = f(1, 2), float c[]) {}
            __global__ void gemm_other() {}";
        let found = names(text, "_Z4gemmPKfPfi").unwrap_or_default();
        let expected = [("a", true), ("b", true), ("size", false), ("n", false), ("c", true)];
        assert_eq!(found, expected.map(|(name, pointer)| (name.to_owned(), pointer)));
        assert_eq!(names(text, "gemm_other"), Some(Vec::new()));
        assert_eq!(names(text, "nowhere"), None);
        assert_eq!(names("__global__ void k(int a\n#if N\n, float b\n#endif\n) {}", "k"), None);
        // Whatever the text, it is read to an end.
        for broken in
            ["gemm(", "__global__ gemm(a", "/*", "__global__ gemm(,)", "//", "__global__ gemm(int (*f)(int), int)"]
        {
            let _ = names(broken, "gemm");
        }
        assert_eq!(plain("_Z99999999999999999999x"), "_Z99999999999999999999x");
    }

    #[test]
    fn types_are_known_by_their_names() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(named(&words("const unsigned int")), Some(("U32", "u32")));
        assert_eq!(named(&words("const __nv_bfloat16 __restrict__")), Some(("BF16", "bf16")));
        assert_eq!(named(&words("std::size_t")), Some(("U64", "u64")));
        assert_eq!(named(&words("struct Point")), None);
    }
}
