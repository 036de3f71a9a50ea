//! Formulas in rules: what is understood, what is proved, what is refused and with which words, in files and in macros.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Write as _;

use gdn2_dsl::formula::Leaf;
use gdn2_dsl::prologue::{Axis, GateOf};
use gdn2_dsl::{Bound, Dtype, Rule, parse_file, parse_rule_body};

const REST: &str = "key_dim: 64; value_dim: 64; dtype: bf16;";

fn body(fields: &str) -> String {
    format!("rule r {{\n    {fields}\n    {REST}\n}}\n")
}

fn one(source: &str) -> Rule {
    parse_file(source).unwrap_or_else(|d| panic!("{}", d.render("t", source, false))).remove(0)
}

fn decay(formula: &str) -> String {
    body(&format!(
        "param a_log: head; param dt_bias: channel;\n    decay: channel = {formula};\n    erase: none; write: none;"
    ))
}

/// The ten mistakes of the design, in its order. `a_log` and `dt_bias` are used elsewhere where a formula leaves them out.
const MISTAKES: [(&str, &str); 16] = [
    (
        "never below 0",
        "param a_log: head;\n    decay: scalar = exp(a_log) * softplus(x);\n    erase: none; write: none;",
    ),
    ("either sign", "param a_log: head;\n    decay: scalar = -exp(a_log) * x;\n    erase: none; write: none;"),
    (
        "does not stay",
        "param a_log: head;\n    decay: channel in [-5, 0] = -exp(a_log) * softplus(x);\n    erase: none; write: none;",
    ),
    (
        "misspelt",
        "param a_log: head;\n    decay: scalar = -exp(a_log) * softplus(x + A_log);\n    erase: none; write: none;",
    ),
    ("undeclared", "decay: scalar = -softplus(x + bias);\n    erase: none; write: none;"),
    (
        "channel in scalar",
        "param dt_bias: channel;\n    decay: scalar = -softplus(x + dt_bias);\n    erase: none; write: none;",
    ),
    (
        "two axes",
        "param bias: channel;\n    decay: none;\n    erase: channel = sigmoid(x + bias);\n    write: channel = sigmoid(x + bias);",
    ),
    ("same everywhere", "param a_log: head;\n    decay: channel = -exp(a_log);\n    erase: none; write: none;"),
    ("log of 1 + exp", "decay: scalar = -log(1 + exp(x));\n    erase: none; write: none;"),
    ("log of sigmoid", "decay: scalar = log(sigmoid(x));\n    erase: none; write: none;"),
    ("1 over 1 + exp", "decay: none;\n    erase: scalar = 1 / (1 + exp(-x));\n    write: none;"),
    ("tied", "decay: none;\n    erase: scalar = sigmoid(x);\n    write: erase = sigmoid(x);"),
    ("no operator", "decay: none;\n    erase: scalar = 2 sigmoid(x);\n    write: none;"),
    ("no function", "decay: none;\n    erase: scalar = relu(x);\n    write: none;"),
    ("power", "decay: none;\n    erase: scalar = x ^ 2;\n    write: none;"),
    ("no argument", "decay: none;\n    erase: scalar = sigmoid;\n    write: none;"),
];

#[test]
fn ten_mistakes_get_the_words_they_should() {
    let mut drawn = String::new();
    for (name, fields) in MISTAKES {
        let source = body(fields);
        let found = parse_file(&source).unwrap_err();
        assert_eq!(found.mistakes.len(), 1, "{name}: {found:#?}");
        writeln!(drawn, "{name}\n{}", found.render("rule.gdn2", &source, false)).unwrap();
    }
    insta::assert_snapshot!(drawn);
}

#[test]
fn a_macro_says_what_a_file_says() {
    let name = proc_macro2::Ident::new("r", proc_macro2::Span::call_site());
    for (mistake, fields) in MISTAKES {
        let in_file = parse_file(&body(fields)).unwrap_err().mistakes.remove(0).in_words();
        let in_macro = parse_rule_body(&name, "", format!("{fields} {REST}").parse().unwrap()).unwrap_err();
        assert_eq!((in_macro.len(), in_macro[0].in_words()), (1, in_file), "{mistake}");
    }
}

#[test]
fn suggested_edits_mend() {
    for (name, fields) in MISTAKES {
        let source = body(fields);
        let mistake = parse_file(&source).unwrap_err().mistakes.remove(0);
        let Some(edit) = mistake.suggestion else { continue };
        let mended = format!("{}{}{}", &source[..edit.span.start], edit.replacement, &source[edit.span.end..]);
        // Writing a gate's own formula frees no parameter of it: that the edit parses is what matters.
        assert!(parse_file(&mended).is_ok(), "{name}\n{mended}\n{:?}", parse_file(&mended));
    }
}

#[test]
fn other_mistakes_are_named_where_they_stand() {
    let cases = [
        ("param q: head; decay: scalar = -exp(q); erase: none; write: none;", "q", "use the word already"),
        ("param tap: head; decay: scalar = -exp(tap); erase: none; write: none;", "tap", "reserved"),
        ("param exp: head; decay: none; erase: none; write: none;", "exp", "it is a function"),
        ("param fn: head; decay: none; erase: none; write: none;", "fn", "keyword"),
        ("param a: head; param a: head; decay: scalar = -exp(a); erase: none; write: none;", "a", "declared twice"),
        (
            "param t: head; let dt: scalar = softplus(x + t); decay: scalar = -dt; erase: none; write: none;",
            "dt",
            "gradient",
        ),
        ("param a: row; decay: scalar = -exp(a); erase: none; write: none;", "row", "is no value for `param a`"),
        ("param a: head; decay: none; erase: none; write: none;", "a", "no formula reads `a`"),
        ("decay: scalar = -exp(a); param a: head; erase: none; write: none;", "a", "before it is declared"),
        ("let s: scalar; decay: scalar = -softplus(s); erase: none; write: none;", "", "has no formula"),
        ("decay: scalar = -softplus(x) as f32; erase: none; write: none;", "as", "stands before the `=`"),
        ("decay: scalar as f16 = -softplus(x); erase: none; write: none;", "f16", "logits are stored"),
        ("param a: head; decay: scalar as f32 = -exp(a); erase: none; write: none;", "as f32", "reads no logit"),
        ("decay: none = -softplus(x); erase: none; write: none;", "none", "there is no gate"),
        ("decay: none; erase: scalar = 1 / x; write: none;", "x", "is not 0"),
        ("decay: none; erase: scalar = log(x); write: none;", "x", "above 0"),
        ("decay: none; erase: scalar = (x; write: none;", "(", "never closed"),
        ("decay: none; erase: scalar = x); write: none;", ")", "closes nothing"),
        ("decay: none; erase: scalar = x *; write: none;", ";", "expected a number"),
        ("decay: none; erase: scalar = 1e99 * x; write: none;", "1e99", "is no number"),
        ("decay: none; erase: scalar = 0x10 * x; write: none;", "0x10", "is no number"),
        ("decay: none; erase: scalar = x, x; write: none;", ",", "expected an operator"),
        ("decay: none; erase: scalar in [0, 1] = softplus(x); write: none;", "in [0, 1]", "no upper end"),
        ("decay: none; erase: scalar in [0, 1] = 2 * sigmoid(x); write: none;", "in [0, 1]", "below 2"),
        ("q: l1norm; decay: none; erase: none; write: none;", "l1norm", "is no value for `q`"),
        ("state: kv = x; decay: none; erase: none; write: none;", "kv", "takes no formula"),
    ];
    for (fields, place, words) in cases {
        let source = body(fields);
        let found = parse_file(&source).unwrap_err().mistakes;
        let hit = found.iter().any(|m| &source[m.span.start..m.span.end] == place && m.in_words().contains(words));
        assert!(hit, "{fields}: {found:#?}");
        assert_eq!(found.len(), 1, "{fields}: {found:#?}");
    }
}

#[test]
fn nesting_and_length_have_limits_and_no_depth_hurts() {
    let nested = |depth: usize| format!("{}x{}", "(".repeat(depth), ")".repeat(depth));
    let erase = |formula: String| body(&format!("decay: none; erase: scalar = {formula}; write: none;"));
    assert!(parse_file(&erase(nested(32))).is_ok());
    for (formula, words) in [
        (nested(33), "at most 32 deep"),
        (nested(100_000), "at most 32 deep"),
        ("-".repeat(100_000) + "x", "at most 32 deep"),
        ("x".to_owned() + &" + x".repeat(64), "at most 128 operations"),
        ("x".to_owned() + &" + x".repeat(100_000), "at most 128 operations"),
    ] {
        let found = parse_file(&erase(formula)).unwrap_err().mistakes;
        assert!(found[0].message.contains(words) && found.len() == 1, "{found:?}");
    }
    assert!(parse_file(&erase("x".to_owned() + &" + x".repeat(63))).is_ok());
    let params = |count: usize| (0..count).map(|at| format!("param a{at}: head; ")).collect::<String>();
    let found = parse_file(&body(&format!("{} decay: none; erase: none; write: none;", params(40_000)))).unwrap_err();
    assert!(found.mistakes.len() == 1 && found.mistakes[0].message.contains("at most 64"), "{found:?}");
    let sum: String = (0..64).map(|at| format!(" + a{at}")).collect();
    let found = parse_file(&body(&format!("{} decay: none; erase: scalar = x{sum}; write: none;", params(64))));
    assert!(found.unwrap_err().mistakes[0].message.contains("at most 128 operations"));
    let sum: String = (0..63).map(|at| format!(" + a{at}")).collect();
    assert!(parse_file(&body(&format!("{} decay: none; erase: scalar = x{sum}; write: none;", params(63)))).is_ok());
}

#[test]
fn ranges_are_those_of_plain_intervals() {
    for (formula, range) in [
        ("-exp(a_log) * softplus(x + dt_bias)", "(-∞, 0]"),
        ("-5 * sigmoid(exp(a_log) * (x + dt_bias))", "[-5, 0]"),
        ("-exp(x + dt_bias) * exp(a_log)", "(-∞, 0]"),
        ("-0.606531 * sigmoid(x + dt_bias + a_log)", "[-0.606531, 0]"),
        ("-(x * x) - dt_bias * dt_bias - a_log * a_log", "(-∞, 0]"),
        ("silu(x + dt_bias + a_log) * 0 - 1", "[-1, -1]"),
        ("-(silu(x + dt_bias + a_log) + 0.5)", "(-∞, -0.22153546]"),
        ("(tanh(x + dt_bias) - 1) / (1 + exp(a_log))", "[-2, 0]"),
        ("logsigmoid(x + dt_bias + a_log) / 16", "(-∞, 0]"),
        ("-log(1 + softplus(x + dt_bias + a_log))", "(-∞, 0]"),
        ("-sigmoid(tanh(x + dt_bias + a_log))", "[-0.7310586, -0.26894143]"),
    ] {
        let rule = one(&decay(formula));
        let proved = rule.prologue.gate(GateOf::Decay).unwrap().range();
        assert_eq!(proved.to_string(), range, "{formula}");
        assert_eq!(rule.bound.is_some(), proved.lower().is_finite(), "{formula}");
    }
    let bounded = one(&decay("-5 * sigmoid(exp(a_log) * (x + dt_bias))"));
    assert_eq!(bounded.bound, Some(Bound { lower: -5.0, upper: 0.0 }));
}

#[test]
fn canonical_text_holds_the_formula_and_reads_back() {
    let rule = one(
        "/// Doc.
        rule r { let s: channel as f32 = softplus((x)); param b1: head; decay: channel in [-9, 0] = ((-(5.0)) * (sigmoid(s)));
        q: l2norm; k: none; erase: scalar = -(-x) + b1 * (2 - 1e-3); write: erase; value_dim: 32; key_dim: 16; dtype: f16; }",
    );
    let text = "/// Doc.\nrule r {\n    q: l2norm;\n    param b1: head;\n    let s: channel as f32 = softplus(x);\n    \
                decay: channel = -5 * sigmoid(s);\n    erase: scalar = -(-x) + b1 * (2 - 0.001);\n    write: erase;\n    \
                key_dim: 16; value_dim: 32; dtype: f16;\n}\n";
    assert_eq!(rule.to_string(), text);
    assert_eq!(one(text), rule);
    assert_eq!(one(text).content_hash(), rule.content_hash());
    // The decay's formula reads no logit of its own, so there is no tensor g.
    let names: Vec<_> = rule.tensors().iter().map(|tensor| tensor.name).collect();
    assert_eq!(names, ["q", "k", "v", "b", "o", "state"]);
    let named: Vec<_> = rule.prologue.named().iter().map(|own| (own.name, own.shape(&rule), own.storage)).collect();
    assert_eq!(named, [("b1", "[HV]".to_owned(), Dtype::F32), ("s", "[B,T,HV,16]".to_owned(), Dtype::F32)]);
    assert_eq!(rule.erase.storage, Dtype::F16);
    assert_eq!(rule.prologue.lets()[0].axis, Some(Axis::Key));
    assert!(rule.prologue.gate(GateOf::Decay).unwrap().reads(Leaf::Let(0)));

    let other = one(&text.replace("sigmoid(s)", "tanh(s)").replace("-5 *", "-1 - "));
    assert_ne!(other.content_hash(), rule.content_hash());
    let json = serde_json::to_string(&rule).unwrap();
    assert_eq!(serde_json::from_str::<Rule>(&json).unwrap(), rule);
    let broken = json.replace("softplus(x)", "softplus(x * y)");
    let error = serde_json::from_str::<Rule>(&broken).unwrap_err().to_string();
    assert!(error.contains("`y` is not declared"), "{broken}: {error}");
    let plain = one(&body("decay: scalar; erase: none; write: none;"));
    assert!(!serde_json::to_string(&plain).unwrap().contains("prologue"));
}

#[test]
fn overrides_keep_formulas() {
    let rule = one(&decay("-exp(a_log) * softplus(x + dt_bias)"));
    let half = rule.with_dtype(Dtype::F16).unwrap();
    assert_eq!((half.decay.storage, &half.prologue), (Dtype::F16, &rule.prologue));
    assert_eq!(half.with_dtype(Dtype::Bf16).unwrap(), rule);
    let small = rule.with_dims(16, 32).unwrap();
    assert_eq!((small.key_dim, small.value_dim, &small.prologue), (16, 32, &rule.prologue));
    assert_eq!(small.with_dims(64, 64).unwrap(), rule);
}

#[test]
fn the_same_rule_from_macro_tokens() {
    let name = proc_macro2::Ident::new("r", proc_macro2::Span::call_site());
    let fields = "q: l2norm; param a_log: head; let dt: scalar = softplus(x); decay: scalar = -exp(a_log) * dt / 1.5e1; \
                  erase: none; write: scalar = dt;";
    let rule = parse_rule_body(&name, "", format!("{fields} {REST}").parse().unwrap()).unwrap();
    assert_eq!(rule, one(&body(fields)));
}

#[test]
fn says_what_is_proved_derived_and_hoisted() {
    let rule = one(&body(
        "q: l2norm; k: l2norm; param a_log: head; param dt_bias: channel;
        decay: channel = -exp(a_log) * softplus(x + dt_bias * 2); erase: scalar = 2 * sigmoid(x); write: erase;",
    ));
    insta::assert_snapshot!(rule.prologue_lines().join("\n"), @r"
    q_t is q / sqrt(sum q^2 + 1e-6)
    k_t is k / sqrt(sum k^2 + 1e-6)
    g_t = -exp(a_log) * softplus(x + dt_bias * 2) in (-∞, 0], x the logit g
      dg_t/dx = -exp(a_log) * sigmoid(x + dt_bias * 2)
      dg_t/da_log = -softplus(x + dt_bias * 2) * exp(a_log)
      dg_t/ddt_bias = -exp(a_log) * sigmoid(x + dt_bias * 2) * 2
      once per head: -exp(a_log)
      once per head and channel: dt_bias * 2
    b_t = 2 * sigmoid(x) in [0, 2], x the logit b
      db_t/dx = 2 * (sigmoid(x) * sigmoid(-x))
    ");
}
