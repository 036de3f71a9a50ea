//! What a wrong rule file is told: every mistake, on its place, with a way out. And that no text whatever panics.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use gdn2_dsl::parse_file;
use proptest::prelude::*;
use proptest::sample::select;

const REST: &str = "erase: scalar; write: erase; key_dim: 64; value_dim: 64; dtype: bf16;";

fn mistakes(source: &str) -> Vec<(String, String)> {
    let mistakes = parse_file(source).unwrap_err().mistakes;
    mistakes.iter().map(|m| (source[m.span.start..m.span.end].to_string(), m.in_words())).collect()
}

/// Applies a mistake's own suggestion.
fn mended(source: &str) -> String {
    let diagnostics = parse_file(source).unwrap_err();
    let edit = diagnostics.mistakes[0].suggestion.clone().expect("a suggestion");
    format!("{}{}{}", &source[..edit.span.start], edit.replacement, &source[edit.span.end..])
}

#[test]
fn every_single_mistake_is_named_where_it_stands() {
    let cases = [
        ("decay: fast;", "fast", "is no value for `decay`"),
        ("decay: scalar as f64;", "f64", "`as f32` or `as bf16`"),
        ("decay: none as f32;", "as f32", "has no tensor to store"),
        ("decay: none in [-1, 0];", "in [-1, 0]", "takes no bound"),
        ("decay: scalar in [-1, 0.5];", "in [-1, 0.5]", "above 0"),
        ("decay: scalar in [-1, -2];", "in [-1, -2]", "lower end"),
        ("decay: scalar in [-1e99, 0];", "in [-1e99, 0]", "finite"),
        ("decay: scalar in [-1];", "]", "expected `,`"),
        ("decay: scalar in (-1, 0);", "(", "expected `[`"),
        ("decay: scalar in [-1, 0] in [-1, 0];", "in", "given twice"),
        ("decay: scalar decay: none;", "", "expected `;`"),
        ("decay scalar;", "", "expected `:`"),
        ("decay: \"scalar\";", "\"scalar\"", "a string literal"),
        ("decay: scalar; frobnicate: 1;", "frobnicate", "unknown key"),
        ("decay: scalar; key_dim: 32;", "key_dim", "given twice"),
        ("decay: scalar; /// x\n", "/// x", "doc comments belong above"),
        ("decay: scalar;;", ";", "nothing before it"),
        ("decay: scalar; state: kk;", "kk", "is no value for `state`"),
        ("decay: scalar; )", ")", "closes nothing"),
        ("decay: scalar; § ", "§", "no part of the rule language"),
    ];
    for (field, place, words) in cases {
        // The field under test stands last, but for a duplicate key.
        let found = mistakes(&format!("rule r {{ {REST} {field} }}"));
        let hit = found.iter().any(|(at, message)| at == place && message.contains(words));
        assert!(hit, "{field}: {found:#?}");
    }
    let whole = [
        ("", "", "holds no rule"),
        ("rule", "", "expected a name"),
        ("rule r", "", "expected `{`"),
        ("rule r {", "{", "never closed"),
        ("rule r { ", "{", "never closed"),
        ("rule match { }", "match", "Rust keyword"),
        ("rule größe { }", "größe", "ASCII"),
        ("rule r { }", "r", "lacks `decay`, `erase`, `write`, `key_dim`, `value_dim` and `dtype`"),
        ("rules r { }", "rules", "expected `rule`"),
        ("}", "}", "closes nothing"),
        ("/// lonely", "/// lonely", "documents no rule"),
        ("/* open", "/*", "comment is never closed"),
        ("rule r { decay: \"open", "\"", "string is never closed"),
    ];
    for (source, place, words) in whole {
        let found = mistakes(source);
        assert!(found.iter().any(|(at, message)| at == place && message.contains(words)), "{source}: {found:#?}");
    }
}

#[test]
fn gate_mistakes_explain_themselves() {
    let rule = |erase: &str, write: &str| {
        format!("rule r {{ decay: none; erase: {erase}; write: {write}; key_dim: 64; value_dim: 64; dtype: bf16; }}")
    };
    let (one, words) = mistakes(&rule("1", "none")).remove(0);
    assert!(one == "1" && words.contains("b = 0: nothing is erased") && words.contains("It does not mean b = 1"));
    assert!(mistakes(&rule("none", "erase"))[0].1.contains("b = 0"));
    for source in [rule("channel", "erase"), rule("scalar", "erase as f32"), rule("scalar in [-1, 0]", "none")] {
        assert_eq!(mistakes(&source).len(), 1, "{source}");
        assert!(parse_file(&mended(&source)).is_ok(), "{}", mended(&source));
    }
}

#[test]
fn suggestions_mend() {
    let head = "rule r { decay: scalar; erase: scalar; write: erase;";
    for broken in [
        format!("{head} key_dim: 100; value_dim: 64; dtype: bf16; }}"),
        format!("{head} key_dim: 64; value_dim: 99999999999999; dtype: bf16; }}"),
        format!("{head} key_dim: 0; value_dim: 64; dtype: bf16; }}"),
        format!("{head} key_dim: 64; value_dim: 64; dtype: bfloat16; }}"),
        format!("{head} key_dim: 64; value_dim: 64 dtype: bf16; }}"),
        format!("{head} key_dim: 64, value_dim: 64; dtype: bf16; }}"),
        format!("{head} key_dim: 64; value_dim: 64; dtype: bf16;"),
        format!("{head} head_dim: 64; value_dim: 64; dtype: bf16; }}"),
        format!("r {{ decay: channel in [0, 5]; {REST} }}"),
        format!("rule r {{ decay: channel in [0, 5]; {REST} }}"),
        format!("rule {{ decay: channel; {REST} }}"),
        format!("rule r decay: channel; {REST} }}"),
    ] {
        let once = mended(&broken);
        let twice = if parse_file(&once).is_ok() { once } else { mended(&once) };
        assert!(parse_file(&twice).is_ok(), "{broken}\n{twice}");
    }
}

#[test]
fn one_pass_finds_them_all() {
    let source = "/// Two rules with one name, and much else.
rule kda {
    dceay: chanel;
    erase: 1;
    write: erase as f32;
    key_dim: 100;
    value_dim: 128
    dtype: f32;
    key_dim: 64;
}
rule kda { decay: none in [-5, 0]; erase: none; write: erase; key_dim: 64; value_dim: 64; dtype: float16;
rule x { decay: scalar in [0.1, 2]; @@; é§ }
";
    let diagnostics = parse_file(source).unwrap_err();
    assert_eq!(diagnostics.to_string(), "19 mistakes in the rule file, the first: unknown key `dceay`");
    insta::assert_snapshot!(diagnostics.render("bad.gdn2", source, false));
    assert!(diagnostics.render("bad.gdn2", source, true).contains("\u{1b}["));
}

#[test]
fn size_and_depth_are_harmless() {
    let deep = |open: &str| open.repeat(1 << 20);
    for noise in [deep("["), deep("{"), deep("/*"), deep("rule r {"), deep("§"), deep("\""), deep("a: "), deep("\n;")]
    {
        for source in [noise.clone(), format!("rule r {{ decay: {noise}")] {
            let diagnostics = parse_file(&source).unwrap_err();
            assert!(diagnostics.render("noise.gdn2", &source, false).len() < 1 << 20);
        }
    }
}

/// Whatever the text, it either gives rules that read back as themselves or mistakes that can be drawn.
fn survives(source: &str) {
    match parse_file(source) {
        Ok(rules) => {
            let again: String = rules.iter().map(ToString::to_string).collect();
            assert_eq!(parse_file(&again).as_ref(), Ok(&rules));
        }
        Err(diagnostics) => {
            assert!(!diagnostics.mistakes.is_empty());
            for mistake in &diagnostics.mistakes {
                assert!(source.get(mistake.span.start..mistake.span.end).is_some(), "{mistake:?}");
            }
            assert!(
                diagnostics.render("f", source, false).contains(&diagnostics.mistakes[0].message.replace('\t', "    "))
            );
            diagnostics.render("f", source, true);
        }
    }
}

fn valid() -> impl Strategy<Value = String> {
    let gate = || select(vec!["none", "scalar", "channel as f32", "scalar as bf16", "erase"]);
    let decay = select(vec!["none", "scalar in [-5, 0]", "channel as bf16 in [-1e1, -0.5]", "channel"]);
    let number = select(vec!["64", "1_28", "512"]);
    let formulas = select(vec![
        ("", "", ""),
        (
            "q: l2norm; param a: head; let s: scalar = softplus(x / (1 + exp(a)));",
            " = -exp(a) * s",
            " = 2 * sigmoid(x - s)",
        ),
        (
            "k: none; param a: channel; param c: channel;",
            " = -(-a * x + 1e-3 - a) * 0 - exp(a)",
            " = tanh(silu(c)) / 16",
        ),
    ]);
    let gates = (decay, gate(), gate(), formulas);
    (gates, number, select(vec!["bf16", "f16"])).prop_map(|((decay, erase, write, (declared, g, b)), dim, dtype)| {
        format!(
            "/// Doc.\nrule r {{\n  {declared} decay: {decay}{g};\n  erase: {erase}{b};\n  write: {write}; // x\n  \
             key_dim: {dim}; value_dim: {dim}; dtype: {dtype}; state: vk;\n}}\n"
        )
    })
}

fn words() -> Vec<&'static str> {
    vec![
        "rule", "r", "decay", "erase", "write", "key_dim", "dtype", ":", ";", ";", "{", "}", "[", "]", "(", ")", "in",
        "as", "bf16", "scalar", "none", "-", "5", ",", "1e", "0x", "1.", "..", "///", "//", "/*", "*/", "\"", "'",
        "\\", "\n", "\t", "\r", "é", "\u{202e}", "\u{200b}", "日本", "\0", "#", "/**/", "/** d */", "param", "let",
        "a", "x", "head", "channel", "l2norm", "q", "=", "+", "*", "/", "^", "exp", "log", "silu", "--", "(x", "tanh(",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn random_bytes_survive(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        survives(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn token_soup_survives(soup in proptest::collection::vec(select(words()), 0..80), gap in select(vec!["", " "])) {
        survives(&soup.join(gap));
    }

    #[test]
    fn mutated_files_survive(file in valid(), edits in proptest::collection::vec((any::<u16>(), 0usize..4, select(words())), 0..5)) {
        let mut text: Vec<char> = file.chars().collect();
        for (at, cut, insert) in edits {
            let at = usize::from(at) % (text.len() + 1);
            let end = (at + cut).min(text.len());
            text.splice(at..end, insert.chars());
        }
        survives(&text.into_iter().collect::<String>());
    }

    #[test]
    fn macro_tokens_survive(soup in proptest::collection::vec(select(words()), 0..40)) {
        if let Ok(tokens) = soup.join(" ").parse() {
            let name = proc_macro2::Ident::new("r", proc_macro2::Span::call_site());
            let mistakes = gdn2_dsl::parse_rule_body(&name, "", tokens).unwrap_err();
            prop_assert!(!mistakes.is_empty());
        }
    }
}
