//! The corpus of the fuzz targets, each input through its target as it is and spoilt in small ways: what the fuzzers run
//! at length (`fuzz/README.md`) is replayed here by the stable compiler.
//!
//! `GDN2_FUZZ=TARGET=EXECUTIONS` runs that many mutations of one target; a failure prints the seed and the input.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use gdn2_tests::fuzz::{TARGETS, Target};
use gdn2_tests::{files_below, root};

/// Mutations of each target in the suite.
const IN_THE_SUITE: u64 = 300;

struct Stream(u64);

impl Stream {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

/// Things that readers stumble over.
const WORDS: [&[u8]; 18] = [
    b"0",
    b"-1",
    b"255",
    b"4294967295",
    b"18446744073709551615",
    b"1e308",
    b"-1e309",
    b"nan",
    b"null",
    b"{",
    b"}",
    b"[",
    b"\"",
    b"\n",
    b"\0",
    b"\xff",
    b"\xe2\x80\xae",
    b"///",
];

/// An input of the corpus with one to four places changed.
fn spoilt(corpus: &[Vec<u8>], stream: &mut Stream) -> Vec<u8> {
    let mut bytes = corpus[stream.below(corpus.len())].clone();
    for _ in 0..1 + stream.below(4) {
        let at = stream.below(bytes.len() + 1);
        let end = (at + stream.below(40)).min(bytes.len());
        match stream.below(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => drop(bytes.splice(at..at, WORDS[stream.below(WORDS.len())].iter().copied())),
            3 => drop(bytes.splice(at..end, WORDS[stream.below(WORDS.len())].iter().copied())),
            4 => {
                let part = bytes[at..end].to_vec();
                let to = stream.below(bytes.len() + 1);
                drop(bytes.splice(to..to, part));
            }
            5 => {
                let other = &corpus[stream.below(corpus.len())];
                let from = stream.below(other.len() + 1);
                let part = other[from..(from + stream.below(200)).min(other.len())].to_vec();
                drop(bytes.splice(at..end, part));
            }
            // A digit for another, which keeps most formats readable.
            6 => {
                let digits: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at].is_ascii_digit()).collect();
                if let Some(at) = digits.get(stream.below(digits.len())) {
                    bytes[*at] = b"0123456789"[stream.below(10)];
                }
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << stream.below(8);
                }
            }
        }
    }
    bytes
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let mut files = files_below(&format!("fuzz/corpus/{target}")).unwrap();
    assert!(!files.is_empty(), "{target} has no corpus");
    if target == "rule_text" {
        files.extend(files_below("rules").unwrap());
    }
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Runs a target on bytes; what made it panic is kept and named.
fn go((name, body): Target, bytes: &[u8], seed: u64) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(bytes))) {
        let kept = root().join(format!("target/fuzz-{name}-{seed:x}"));
        std::fs::write(&kept, bytes).unwrap();
        eprintln!("{name}: the input is in {}; add it to fuzz/corpus/{name} when it is mended", kept.display());
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn the_corpus_and_its_neighbours_are_understood_or_refused() {
    let asked = std::env::var("GDN2_FUZZ").unwrap_or_default();
    let seed = RandomState::new().hash_one(0);
    println!("seed {seed:x}");
    for target in TARGETS {
        let corpus = corpus(target.0);
        let executions = match asked.split_once('=') {
            Some((name, count)) if name == target.0 => count.parse().unwrap(),
            Some(_) => continue,
            None => IN_THE_SUITE,
        };
        corpus.iter().for_each(|bytes| go(target, bytes, 0));
        let mut stream = Stream(seed);
        for _ in 0..executions {
            let bytes = spoilt(&corpus, &mut stream);
            go(target, &bytes, seed);
        }
        println!("{}: {} inputs, {executions} mutations", target.0, corpus.len());
    }
}
