//! Reads the oracle's case files from beside the repository; a clone without them has none.
#![allow(clippy::unwrap_used, dead_code)]

use std::collections::HashMap;

use gdn2_dsl::{Combination, Dims, Grain, Inputs, OutputGradients};
use safetensors::{Dtype, SafeTensors};

pub struct Case {
    pub name: String,
    pub combination: Combination,
    pub inputs: Inputs,
    pub upstream: OutputGradients,
    pub expected: HashMap<String, Vec<f64>>,
    pub bar_scale: f64,
}

pub fn cases() -> Vec<Case> {
    let folder = format!("{}/../../shared/oracle", env!("CARGO_MANIFEST_DIR"));
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "safetensors"));
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &std::path::Path) -> Case {
    let bytes = std::fs::read(path).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = metadata.metadata().clone().unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: HashMap<String, Vec<f64>> = HashMap::new();
    for (name, view) in file.tensors() {
        let words = view.data().chunks_exact(4).map(|word| <[u8; 4]>::try_from(word).unwrap());
        tensors.insert(
            name,
            match view.dtype() {
                Dtype::F32 => words.map(|word| f64::from(f32::from_le_bytes(word))).collect(),
                Dtype::I32 => words.map(|word| f64::from(i32::from_le_bytes(word))).collect(),
                other => panic!("{other:?}"),
            },
        );
    }
    let (q, v) = (file.tensor("q").unwrap(), file.tensor("v").unwrap());
    let (q, v) = (q.shape(), v.shape());
    let grain = |word: &str| match word {
        "none" => Grain::None,
        "scalar" => Grain::Scalar,
        "channel" => Grain::Channel,
        other => panic!("{other}"),
    };
    let mut take = |name: &str| tensors.remove(name);
    Case {
        name: path.file_stem().unwrap().to_string_lossy().into_owned(),
        combination: Combination {
            decay: grain(&metadata["decay"]),
            erase: grain(&metadata["erase"]),
            write: (metadata["write"] != "tied").then(|| grain(&metadata["write"])),
        },
        inputs: Inputs {
            dims: Dims { batch: q[0], tokens: q[1], heads: q[2], value_heads: v[2], key_dim: q[3], value_dim: v[3] },
            q: take("q").unwrap(),
            k: take("k").unwrap(),
            v: take("v").unwrap(),
            g: take("g"),
            b: take("b"),
            w: take("w"),
            initial_state: take("initial_state"),
            cu_seqlens: take("cu_seqlens").map(|offsets| offsets.iter().map(|at| *at as usize).collect()),
            scale: metadata["scale"].parse().unwrap(),
            named: Default::default(),
        },
        upstream: OutputGradients { d_out: take("do").unwrap(), d_final_state: take("d_final_state") },
        // The files' name of it is the former one.
        expected: tensors
            .into_iter()
            .map(|(name, numbers)| {
                (if name == "dinitial_state" { "d_initial_state".to_owned() } else { name }, numbers)
            })
            .collect(),
        bar_scale: metadata.get("bar_scale").map_or(1.0, |scale| scale.parse().unwrap()),
    }
}
