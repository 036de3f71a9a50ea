//! Rule text to rules and back: shipped files, canonical form, the macro's path through the same grammar.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashSet;

use gdn2_dsl::prologue::GateOf;
use gdn2_dsl::{Bound, Dtype, Grain, Rule, RuleError, StateLayout, Write, granularity_combinations, parse_file};

/// Name, combination, what it is known as, and the interval its decay is proved to lie in, if it has a formula.
const LAYERS: [(&str, &str, &str, &str); 9] = [
    ("gdn_layer", "scalar_scalar_tied", "Gated DeltaNet (GDN)", "(-∞, 0]"),
    ("gdn_negative_layer", "scalar_scalar_tied", "Gated DeltaNet (GDN)", "(-∞, 0]"),
    ("kda_layer", "channel_scalar_tied", "Kimi Delta Attention (KDA)", "(-∞, 0]"),
    ("kda_bounded_layer", "channel_scalar_tied", "Kimi Delta Attention (KDA)", "[-5, 0]"),
    ("gdn2_layer", "channel_channel_channel", "Gated DeltaNet-2 (GDN-2)", "(-∞, 0]"),
    ("gdn2_negative_layer", "channel_channel_channel", "Gated DeltaNet-2 (GDN-2)", "(-∞, 0]"),
    ("mamba2_layer", "scalar_none_scalar", "Mamba-2/SSD", "(-∞, 0]"),
    ("gla_layer", "channel_none_none", "Gated Linear Attention (GLA)", "(-∞, 0]"),
    ("retnet_layer", "scalar_none_none", "RetNet, or Mamba-2/SSD with its step folded into v", "(-∞, 0]"),
];

const SHIPPED: [(&str, &str, &str); 10] = [
    ("gdn2", "channel_channel_channel", "Gated DeltaNet-2 (GDN-2)"),
    ("kda", "channel_scalar_tied", "Kimi Delta Attention (KDA)"),
    ("kda_safe", "channel_scalar_tied", "Kimi Delta Attention (KDA)"),
    ("kda_bf16", "channel_scalar_tied", "Kimi Delta Attention (KDA)"),
    ("gdn2_bf16", "channel_channel_channel", "Gated DeltaNet-2 (GDN-2)"),
    ("gdn", "scalar_scalar_tied", "Gated DeltaNet (GDN)"),
    ("deltanet", "none_scalar_tied", "DeltaNet"),
    ("mamba2", "scalar_none_scalar", "Mamba-2/SSD"),
    ("gla", "channel_none_none", "Gated Linear Attention (GLA)"),
    ("linear", "none_none_none", "linear attention"),
];

fn shipped(name: &str) -> Rule {
    let path = format!("{}/../rules/{name}.gdn2", env!("CARGO_MANIFEST_DIR"));
    let source = std::fs::read_to_string(path).unwrap();
    let mut rules = parse_file(&source).unwrap_or_else(|d| panic!("{}", d.render(name, &source, false)));
    assert_eq!(rules.len(), 1);
    rules.remove(0)
}

fn one(source: &str) -> Rule {
    parse_file(source).unwrap_or_else(|d| panic!("{}", d.render("t", source, false))).remove(0)
}

#[test]
fn shipped_rules_are_what_they_are_called() {
    for (name, combination, known_as) in SHIPPED {
        let rule = shipped(name);
        assert_eq!(rule.name, name);
        assert_eq!(rule.combination().to_string(), combination);
        assert_eq!(rule.combination().known_as(), Some(known_as));
        assert_eq!((rule.key_dim, rule.value_dim, rule.dtype), (128, 128, Dtype::Bf16));
        assert!(!rule.doc.is_empty(), "{name} has no doc comment");
        assert_eq!(rule.bound, (name == "kda_safe").then_some(Bound { lower: -5.0, upper: 0.0 }));
    }
}

#[test]
fn shipped_layers_are_what_they_are_called() {
    for (name, combination, known_as, proved) in LAYERS {
        let rule = shipped(name);
        assert_eq!((rule.name.as_str(), rule.combination().to_string().as_str()), (name, combination));
        assert_eq!(rule.combination().known_as(), Some(known_as));
        assert_eq!(rule.prologue.gate(GateOf::Decay).unwrap().range().to_string(), proved);
        assert_eq!(rule.bound, (name == "kda_bounded_layer").then_some(Bound { lower: -5.0, upper: 0.0 }));
        assert!(!rule.doc.is_empty(), "{name} has no doc comment");
        assert_eq!(one(&rule.to_string()), rule);
    }
    let files = std::fs::read_dir(format!("{}/../rules", env!("CARGO_MANIFEST_DIR"))).unwrap();
    assert_eq!(files.count(), SHIPPED.len() + LAYERS.len(), "a shipped rule that no test knows");
}

#[test]
fn every_word_of_the_language_is_understood() {
    let rule = one(
        "/// One.\n/// Two.\nrule x { // comment\n state: vk; dtype: f16; value_dim: 5_12; key_dim: 16; /* a /* b */ */
        write: channel as f32; erase: scalar as bf16; decay: channel as bf16 in [-1.5e1, -0.001]; }",
    );
    assert_eq!(rule.doc, "One.\nTwo.");
    assert_eq!(rule.decay.storage, Dtype::Bf16);
    assert_eq!(rule.bound, Some(Bound { lower: -15.0, upper: -0.001 }));
    assert_eq!((rule.erase.grain, rule.erase.storage), (Grain::Scalar, Dtype::Bf16));
    assert!(matches!(rule.write, Write::Own(gate) if gate.grain == Grain::Channel && gate.storage == Dtype::F32));
    assert_eq!((rule.key_dim, rule.value_dim, rule.dtype, rule.state), (16, 512, Dtype::F16, StateLayout::Vk));
}

#[test]
fn the_canonical_text_reads_back_as_the_same_rule() {
    let mut hashes = HashSet::new();
    for combination in granularity_combinations() {
        for dtype in [Dtype::Bf16, Dtype::F16] {
            let mut rule = combination.rule(64, 128, dtype).unwrap();
            rule.doc = "First line.\n\n  Indented third line.".to_string();
            if rule.decay.grain != Grain::None {
                rule.bound = Some(Bound { lower: -0.1, upper: 0.0 });
                rule.decay.storage = Dtype::Bf16;
            }
            if rule.erase.grain != Grain::None {
                rule.erase.storage = Dtype::F32;
            }
            rule.state = StateLayout::Vk;
            assert_eq!(one(&rule.to_string()), rule, "{rule}");
            assert!(hashes.insert(rule.content_hash()), "two rules with one hash: {rule}");
        }
    }
    assert_eq!(hashes.len(), 60);
}

#[test]
fn the_hash_leaves_out_the_doc_comment_and_nothing_else() {
    let rule = shipped("kda");
    assert_eq!(Rule { doc: "other".into(), ..rule.clone() }.content_hash(), rule.content_hash());
    assert_ne!(shipped("kda_safe").content_hash(), Rule { name: "kda_safe".into(), ..rule.clone() }.content_hash());
    assert_ne!(Rule { key_dim: 64, ..rule.clone() }.content_hash(), rule.content_hash());
}

#[test]
fn thirty_combinations_each_once() {
    let combinations: HashSet<_> = granularity_combinations().into_iter().collect();
    assert_eq!(combinations.len(), 30);
    assert_eq!(combinations.iter().filter(|c| c.write.is_none()).count(), 3);
}

#[test]
fn overrides_go_through_the_checks() {
    let rule = one(
        "rule r { decay: scalar as bf16; erase: scalar as f32; write: channel; key_dim: 64; value_dim: 64; dtype: bf16; }",
    );
    let half = rule.with_dtype(Dtype::F16).unwrap();
    assert_eq!((half.dtype, half.decay.storage, half.erase.storage), (Dtype::F16, Dtype::Bf16, Dtype::F32));
    assert!(matches!(half.write, Write::Own(gate) if gate.storage == Dtype::F16));
    assert_eq!(half.with_dtype(Dtype::Bf16).unwrap(), rule);
    assert_eq!(rule.with_dtype(Dtype::F32), Err(RuleError::Dtype));
    assert_eq!(rule.with_dims(256, 512).map(|r| (r.key_dim, r.value_dim)), Ok((256, 512)));
    let error = rule.with_dims(272, 64).unwrap_err().to_string();
    assert!(error.contains("key_dim: 272") && error.contains("nearest legal value is 256"), "{error}");
    assert!(rule.with_dims(64, 24).unwrap_err().to_string().contains("value_dim: 24"));
}

#[test]
fn macro_tokens_read_as_files_do() {
    let name = proc_macro2::Ident::new("kda", proc_macro2::Span::call_site());
    let body =
        "decay: channel in [-5, 0]; erase: scalar as f32; write: erase; key_dim: 128; value_dim: 128; dtype: bf16;";
    let rule = gdn2_dsl::parse_rule_body(&name, "Doc.", body.parse().unwrap()).unwrap();
    assert_eq!(rule, one(&format!("/// Doc.\nrule kda {{ {body} }}")));
}

#[test]
fn macro_mistakes_are_those_of_files() {
    let name = proc_macro2::Ident::new("r", proc_macro2::Span::call_site());
    let body = "dceay: chanel; erase: 1; write: erase as f32; key_dim: 100 value_dim: {;}; dtype: f32; ?";
    let in_macro = gdn2_dsl::parse_rule_body(&name, "", body.parse().unwrap()).unwrap_err();
    let in_file = parse_file(&format!("rule r {{ {body} }}")).unwrap_err().mistakes;
    let words = |mut all: Vec<String>| {
        all.sort();
        all
    };
    assert_eq!(
        words(in_macro.iter().map(|m| m.in_words()).collect()),
        words(in_file.iter().map(|m| m.in_words()).collect())
    );
    assert_eq!(in_file.len(), 9, "{in_file:#?}");
}

/// The last part of a body needs no `;`, in files as in macros, whatever it ends with.
#[test]
fn the_last_semicolon_is_optional() {
    const FIRST: &str = "erase: scalar; write: erase; key_dim: 64; value_dim: 64; dtype: bf16;";
    for last in [
        "decay: scalar",
        "decay: channel as bf16",
        "decay: channel in [-5, 0]",
        "param a: head; decay: channel = -exp(a) * softplus(x)",
        "decay: scalar in [-1, 0] = -sigmoid(x)",
    ] {
        let (with, without) = (format!("{FIRST} {last};"), format!("{FIRST} {last}"));
        let in_file = |body: &str| parse_file(&format!("rule mine {{ {body} }}")).unwrap().remove(0);
        let name = proc_macro2::Ident::new("mine", proc_macro2::Span::call_site());
        let in_macro = |body: &str| gdn2_dsl::parse_rule_body(&name, "", body.parse().unwrap()).unwrap();
        assert_eq!(in_file(&without), in_file(&with), "{last}");
        assert_eq!(in_macro(&without), in_macro(&with), "{last}");
    }
    let mistakes = parse_file("rule mine { decay: scalar erase: none; write: none }").unwrap_err().mistakes;
    let said = mistakes.iter().any(|mistake| mistake.in_words().contains("expected `;`"));
    assert!(said, "between fields it is not: {mistakes:#?}");
}
