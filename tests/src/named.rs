//! The rules with a name of their own, as costs are stated for them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use crate::root;
use gdn2_dsl::{Rule, parse_file};

/// A rule of `rules/`.
pub fn shipped(name: &str) -> Rule {
    let text = std::fs::read_to_string(root().join(format!("rules/{name}.gdn2"))).unwrap();
    parse_file(&text).unwrap().remove(0)
}

/// GDN, KDA and GDN-2 at K = V = 128, every gate as bf16.
pub fn in_bf16() -> [Rule; 3] {
    let rule = |name: &str, gates: &str| {
        parse_file(&format!("rule {name} {{ {gates} key_dim: 128; value_dim: 128; dtype: bf16; }}")).unwrap().remove(0)
    };
    [
        rule("gdn", "decay: scalar as bf16; erase: scalar; write: erase;"),
        rule("kda", "decay: channel as bf16; erase: scalar; write: erase;"),
        rule("gdn2", "decay: channel as bf16; erase: channel; write: channel;"),
    ]
}

/// The same with the bytes of forward's inputs and outputs per token and head.
pub fn with_forward_bytes() -> [(Rule, f64); 3] {
    let [gdn, kda, gdn2] = in_bf16();
    [(gdn, 1032.0), (kda, 1284.0), (gdn2, 1792.0)]
}
