//! Every way a case file can be wrong is a typed error that names the tensor, and no file is left half written.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[allow(dead_code, reason = "shared with tests that take more of it")]
#[path = "../../tests/src/seed.rs"]
mod seed;

use gdn2_codegen::abi::Tensor;
use gdn2_dsl::{Bound, Combination, Draw, Dtype, Grain, Rule};
use gdn2_runtime::problem::Problem;
use gdn2_runtime::tensors::{Array, Case, CaseError, CuSeqlens};
use seed::{again, seed_of};

fn rule() -> Rule {
    Combination { decay: Grain::Channel, erase: Grain::Scalar, write: None }.rule(16, 32, Dtype::Bf16).unwrap()
}

fn case() -> Case {
    Case::drawn(&rule(), &Draw::new(2, 5, 1, 2, seed_of(7)), true).unwrap()
}

fn packed() -> Case {
    let draw = Draw { cu_seqlens: Some(vec![0, 3, 3, 9]), ..Draw::new(1, 9, 1, 2, seed_of(7)) };
    Case::drawn(&rule(), &draw, false).unwrap()
}

fn refusal(case: &Case) -> CaseError {
    Problem::new(&rule(), case).unwrap_err()
}

#[test]
fn a_case_survives_its_file_bit_for_bit() {
    let mut case = packed();
    case.initial_slots = Some(vec![2, -1, 0]);
    case.final_slots = Some(vec![0, 1, -1]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("case.safetensors");
    case.save(&path).unwrap();
    assert_eq!(Case::load(&path).unwrap(), case);
    assert_eq!(case.to_bytes().unwrap(), Case::load(&path).unwrap().to_bytes().unwrap());
    case.cu_seqlens = case.cu_seqlens.map(|packed| CuSeqlens { is_64: true, ..packed });
    assert_eq!(Case::from_bytes(&case.to_bytes().unwrap()).unwrap(), case);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
}

/// Files from when the gradient of the initial state had another name are read; a file with both is refused.
#[test]
fn a_gradient_is_read_by_its_former_name() {
    let bytes = case().to_bytes().unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let former = |name: &str| if name == "d_initial_state" { "dinitial_state".to_owned() } else { name.to_owned() };
    let all = file.tensors();
    let renamed =
        safetensors::serialize(all.iter().map(|(name, view)| (former(name), view)), header.metadata().clone());
    assert!(file.tensor("d_initial_state").is_ok());
    assert_eq!(Case::from_bytes(&renamed.unwrap()).unwrap(), case());
    let twice = all.iter().map(|(name, view)| (name.clone(), view));
    let twice =
        twice.chain([("dinitial_state".to_owned(), &all.iter().find(|it| it.0 == "d_initial_state").unwrap().1)]);
    let refusal = Case::from_bytes(&safetensors::serialize(twice, header.metadata().clone()).unwrap()).unwrap_err();
    assert_eq!(refusal.to_string(), "d_initial_state: there twice, as `dinitial_state` too; leave one of them");
}

#[test]
fn a_case_names_its_rule() {
    let found = case().rule().unwrap();
    assert_eq!((found.combination(), found.key_dim, found.value_dim), (rule().combination(), 16, 32));
    let mut other = case();
    other.metadata.insert("erase".into(), "vector".into());
    assert_eq!(other.rule().unwrap_err().to_string(), "metadata `erase` is `vector`, must be none, scalar or channel");
    other.metadata.remove("decay");
    assert!(other.rule().unwrap_err().to_string().starts_with("metadata `decay` is missing"));
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = case().to_bytes().unwrap();
    for length in (0..600).chain((600..bytes.len()).step_by(97)) {
        assert!(matches!(Case::from_bytes(&bytes[..length]), Err(CaseError::Format(_))), "{length} bytes");
    }
}

#[test]
fn damaged_headers_never_panic() {
    let bytes = case().to_bytes().unwrap();
    for at in 0..400 {
        for flip in [1u8, 0x10, 0x80] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            if let Ok(case) = Case::from_bytes(&damaged) {
                let _ = Problem::new(&rule(), &case);
            }
        }
    }
}

#[test]
fn a_save_that_fails_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("no/such/folder/case.safetensors");
    assert!(matches!(case().save(&missing), Err(CaseError::Io { .. })));
    let target = folder.path().join("case.safetensors");
    let mut broken = case();
    broken.tensors.insert(Tensor::Q, Array { shape: vec![3], data: vec![0.0], stored: Dtype::F32 });
    assert!(broken.save(&target).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn unknown_and_wrongly_stored_tensors_are_refused_on_reading() {
    let view = |dtype, shape: &[usize], bytes: &[u8], name: &str| {
        let view = safetensors::tensor::TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
        let file = safetensors::serialize([(name, view)], None).unwrap();
        Case::from_bytes(&file).unwrap_err().to_string()
    };
    use safetensors::Dtype as D;
    assert!(view(D::F32, &[1], &[0; 4], "gate").starts_with("gate: no case has such a tensor; known are q k v g b w"));
    assert_eq!(view(D::F64, &[1], &[0; 8], "q"), "q: stored as F64, must be F32, BF16 or F16");
    assert_eq!(view(D::F32, &[1], &[0; 4], "cu_seqlens"), "cu_seqlens: stored as F32, must be I32 or I64");
    assert_eq!(view(D::I64, &[1], &[0; 8], "final_slots"), "final_slots: stored as I64, must be I32");
    assert!(view(D::I32, &[1, 1], &[0; 4], "cu_seqlens").contains("one axis"));
}

#[test]
fn missing_extra_and_misshapen_tensors_are_named() {
    let mut wrong = case();
    wrong.tensors.remove(&Tensor::G);
    assert_eq!(refusal(&wrong).to_string(), "g: missing, the rule needs it as [B,T,HV,K]");

    let mut wrong = case();
    wrong.tensors.insert(Tensor::W, Array::new(&[2, 5, 2], vec![0.0; 20]).unwrap());
    assert!(refusal(&wrong).to_string().starts_with("w: the rule has no such gate (write: erase, b serves both)"));

    let mut wrong = case();
    wrong.tensors.insert(Tensor::B, Array::new(&[2, 5, 1], vec![0.0; 10]).unwrap());
    assert_eq!(refusal(&wrong).to_string(), "b: shape [2, 5, 1], must be [B,T,HV] = [2, 5, 2]");

    let mut wrong = case();
    wrong.tensors.insert(Tensor::Q, Array::new(&[2, 5, 16], vec![0.0; 160]).unwrap());
    assert!(matches!(refusal(&wrong), CaseError::Shape { tensor: "q", .. }));

    let mut wrong = case();
    wrong.tensors.insert(Tensor::InitialState, Array::new(&[3, 2, 16, 32], vec![0.0; 3072]).unwrap());
    assert!(matches!(refusal(&wrong), CaseError::Shape { tensor: "initial_state", .. }));
}

#[test]
fn a_second_sixteen_bit_format_is_refused_and_the_rules_own_is_not() {
    let mut other = case();
    let stored = |case: &mut Case, tensor, dtype| {
        if let Some(array) = case.tensors.get_mut(&tensor) {
            array.stored = dtype;
        }
    };
    stored(&mut other, Tensor::Q, Dtype::Bf16);
    assert!(Problem::new(&rule(), &other).is_ok());
    stored(&mut other, Tensor::Q, Dtype::F16);
    assert_eq!(refusal(&other).to_string(), "q: stored as f16, must be f32 or bf16, as the rule stores it");
}

#[test]
fn the_first_bad_number_is_named() {
    let with = |tensor: Tensor, at: usize, value: f32| {
        let mut wrong = case();
        wrong.tensors.get_mut(&tensor).unwrap().data[at] = value;
        Problem::new(&rule(), &wrong).map(|_| ()).map_err(|error| error.to_string())
    };
    // v is [2,5,2,32]: element 3·32 + 7 belongs to batch 0, token 1, head 1.
    assert_eq!(with(Tensor::V, 103, f32::NAN).unwrap_err(), "v[0, 1, 1, 7] is NaN, must be a finite number");
    assert_eq!(with(Tensor::K, 0, f32::INFINITY).unwrap_err(), "k[0, 0, 0, 0] is inf, must be a finite number");
    assert!(with(Tensor::G, 5, 0.25).unwrap_err().starts_with("g[0, 0, 0, 5] is 0.25, must be at most 0"));
    assert!(with(Tensor::G, 5, f32::NAN).unwrap_err().starts_with("g[0, 0, 0, 5] is NaN"));
    assert_eq!(with(Tensor::G, 5, f32::NEG_INFINITY), Ok(()), "a decay to exactly 0 is a reset");
    assert!(with(Tensor::InitialState, 1, f32::NAN).unwrap_err().starts_with("initial_state[0, 0, 0, 1]"));
}

#[test]
fn a_bound_is_checked() {
    let bounded = Rule { bound: Some(Bound { lower: -5.0, upper: -0.001 }), ..rule() };
    let mut case = Case::drawn(&bounded, &Draw::new(1, 3, 1, 1, seed_of(3)), false).unwrap();
    assert!(Problem::new(&bounded, &case).is_ok());
    case.tensors.get_mut(&Tensor::G).unwrap().data[20] = -5.5;
    let error = Problem::new(&bounded, &case).unwrap_err().to_string();
    assert_eq!(error, "g[0, 1, 0, 4] is -5.5, must be from -5 to -0.001, the rule's bound on the log decay");
}

/// A gate that is its bound, whichever way its storage rounds the two: −0.3 in bf16 is −0.30078125.
#[test]
fn a_gate_at_its_bound_is_inside() {
    for storage in [Dtype::Bf16, Dtype::F32] {
        for (lower, upper) in [(-0.3, -0.1), (-5.0, -0.7), (-1.5, -1.5)] {
            let mut bounded = Rule { bound: Some(Bound { lower, upper }), ..rule() };
            bounded.decay.storage = storage;
            let mut case = Case::drawn(&bounded, &Draw::new(1, 3, 1, 1, seed_of(0)), false).unwrap();
            let g = &mut case.tensors.get_mut(&Tensor::G).unwrap().data;
            (g[0], g[1]) = (lower, upper);
            (g[2], g[3]) = (storage.round(f64::from(lower)) as f32, storage.round(f64::from(upper)) as f32);
            assert!(Problem::new(&bounded, &case).is_ok(), "{storage} {lower} {upper}; {}", again());
            case.tensors.get_mut(&Tensor::G).unwrap().data[4] = lower * 1.02;
            assert!(Problem::new(&bounded, &case).is_err(), "{storage} {lower} {upper}; {}", again());
        }
    }
}

#[test]
fn numbers_too_large_for_f16_are_refused() {
    let f16 = rule().with_dtype(Dtype::F16).unwrap();
    let mut case = Case::drawn(&f16, &Draw::new(1, 3, 1, 1, seed_of(3)), false).unwrap();
    case.tensors.get_mut(&Tensor::V).unwrap().data[0] = 70_000.0;
    assert_eq!(
        Problem::new(&f16, &case).unwrap_err().to_string(),
        "v[0, 0, 0, 0] is 70000, must be small enough for f16"
    );
}

#[test]
fn offsets_must_ascend_from_0_to_t() {
    let with = |offsets: &[i64]| {
        let mut wrong = packed();
        wrong.cu_seqlens = Some(CuSeqlens { offsets: offsets.to_vec(), is_64: true });
        wrong.tensors.remove(&Tensor::InitialState);
        Problem::new(&rule(), &wrong).map(|problem| problem.sequences().len()).map_err(|error| error.to_string())
    };
    assert_eq!(with(&[0, 0, 9, 9]), Ok(3));
    assert_eq!(with(&[0, 5, 4, 9]).unwrap_err(), "cu_seqlens: must not descend, but [1] is 5 and [2] is 4");
    assert_eq!(with(&[1, 5, 9]).unwrap_err(), "cu_seqlens: must start at 0, got 1");
    assert_eq!(with(&[0, 5, 8]).unwrap_err(), "cu_seqlens: must end at T = 9, got 8");
    assert_eq!(with(&[]).unwrap_err(), "cu_seqlens: none at all, must be N + 1 offsets from 0 to T");
    assert!(with(&[0, i64::MIN, i64::MAX, 9]).unwrap_err().contains("must not descend"));
    let mut dense = case();
    dense.cu_seqlens = Some(CuSeqlens { offsets: vec![0, 5], is_64: false });
    assert_eq!(refusal(&dense).to_string(), "cu_seqlens: packed sequences need B = 1, got B = 2");
}

#[test]
fn slots_stay_inside_the_pool_and_apart() {
    let with = |initial: &[i32], last: &[i32]| {
        let mut wrong = packed();
        wrong.initial_slots = Some(initial.to_vec());
        wrong.final_slots = Some(last.to_vec());
        Problem::new(&rule(), &wrong).map(|problem| problem.final_pool()).map_err(|error| error.to_string())
    };
    assert_eq!(with(&[2, 2, -1], &[-1, 0, -1]), Ok(3));
    assert_eq!(with(&[0, 3, 1], &[0, 1, 2]).unwrap_err(), "initial_slots[1] is 3, the pool initial_state has 3 slots");
    assert_eq!(with(&[0, 1, 2], &[0, 1, 7]).unwrap_err(), "final_slots[2] is 7, the pool has 3 slots");
    assert_eq!(
        with(&[0, 1, 2], &[1, 0, 1]).unwrap_err(),
        "final_slots[2] is 1, another sequence writes that slot: slots of final states must differ"
    );
    assert!(with(&[0, 1], &[0, 1, 2]).unwrap_err().starts_with("initial_slots: shape [2], must be [N] = [3]"));
    let mut without = packed();
    without.tensors.remove(&Tensor::InitialState);
    without.initial_slots = Some(vec![0, 1, 2]);
    assert!(refusal(&without).to_string().starts_with("initial_state: missing"));
}

#[test]
fn sizes_that_overflow_are_refused() {
    let with = |shape: [usize; 4]| {
        let mut wrong = case();
        for tensor in [Tensor::Q, Tensor::K, Tensor::V] {
            wrong.tensors.insert(tensor, Array { shape: shape.to_vec(), data: Vec::new(), stored: Dtype::F32 });
        }
        refusal(&wrong)
    };
    assert!(matches!(with([1 << 40, 0, 1, 16]), CaseError::Size { field: "tokens", .. }));
    assert!(matches!(with([usize::MAX, 2, 1, 16]), CaseError::Size { field: "tokens", .. }));
    assert!(matches!(with([1, 0, usize::MAX, 16]), CaseError::Size { field: "heads", .. }));
    assert!(matches!(with([1, 1 << 30, 1 << 30, 16]), CaseError::Size { .. }));
    assert!(matches!(with([1, 1, 0, 16]), CaseError::Size { field: "heads", .. }));
}

/// A case file whose header is this text, with `data` bytes of zeros after it.
fn with_header(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn sizes_that_a_file_claims_are_refused_before_anything_is_read_or_allocated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("case.safetensors");
    let long = "0".repeat(70);
    let headers = [
        with_header(
            r#"{"q":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4611686018427387904]}}"#,
            64,
        ),
        with_header(r#"{"q":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,64]}}"#, 64),
        with_header(r#"{"q":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,64]}}"#, 64),
        with_header(r#"{"q":{"dtype":"F32","shape":[16],"data_offsets":[64,0]}}"#, 64),
        with_header(&format!(r#"{{"q":{{"dtype":"F32","shape":[1{long}],"data_offsets":[0,64]}}}}"#), 64),
        with_header(&"[".repeat(100_000), 0),
        with_header("", 0),
        u64::MAX.to_le_bytes().to_vec(),
        [&(1u64 << 40).to_le_bytes()[..], &[b' '; 100]].concat(),
        Vec::new(),
    ];
    for bytes in headers {
        std::fs::write(&path, &bytes).unwrap();
        let error = Case::load(&path).unwrap_err();
        assert!(matches!(error, CaseError::Format(_)), "{error}");
    }
    #[cfg(unix)]
    assert!(matches!(Case::load(std::path::Path::new("/dev/zero")), Err(CaseError::Format(_))));
}

#[test]
fn what_follows_the_tensors_of_a_file_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("case.safetensors");
    let mut bytes = case().to_bytes().unwrap();
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(Case::load(&path).unwrap(), case());
    bytes.push(0);
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(Case::load(&path), Err(CaseError::Format(_))));
}

#[test]
fn sizes_beyond_a_limit_or_this_machine_are_refused_by_name() {
    // A table that asks for two thousand million states, without a pool that says how many there are.
    let mut wrong = case();
    wrong.tensors.remove(&Tensor::InitialState);
    wrong.final_slots = Some(vec![i32::MAX - 1, 0]);
    let error = refusal(&wrong).to_string();
    assert!(error.contains("states") && error.contains("at most"), "{error}");

    // Millions of sequences without a token.
    let mut wrong = packed();
    let mut offsets = vec![0; 9_000_000];
    offsets.extend([3, 9]);
    wrong.cu_seqlens = Some(CuSeqlens { offsets, is_64: true });
    wrong.tensors.remove(&Tensor::InitialState);
    let error = refusal(&wrong).to_string();
    assert!(error.contains("GiB") || error.contains("at most"), "{error}");

    let mut wrong = case();
    wrong.metadata.insert("scale".into(), "1e300".into());
    assert!(refusal(&wrong).to_string().contains("finite number"));

    let draws = [
        Draw::new(usize::MAX, usize::MAX, 2, 2, 7),
        Draw::new(1, 1_000_000_000_000, 1, 1, 7),
        Draw::new(1 << 31, 1, 1, 1, 7),
        Draw::new(1, 1 << 30, 1, 1, 7),
        Draw::new(1, 1, 1 << 21, 1 << 21, 7),
        Draw::new(1, 1, 2, 3, 7),
        Draw::new(1, 1, 0, 0, 7),
        Draw { largest_erase: f64::NAN, ..Draw::new(1, 1, 1, 1, 7) },
        Draw { largest_erase: f64::INFINITY, ..Draw::new(1, 1, 1, 1, 7) },
        Draw { largest_erase: -0.5, ..Draw::new(1, 1, 1, 1, 7) },
        Draw { cu_seqlens: Some(vec![0, 5, 3]), ..Draw::new(1, 3, 1, 1, 7) },
        Draw { cu_seqlens: Some(Vec::new()), ..Draw::new(1, 3, 1, 1, 7) },
    ];
    for draw in draws {
        let error = Case::drawn(&rule(), &draw, true).unwrap_err();
        assert!(matches!(error, CaseError::Size { .. }), "{draw:?}: {error}");
    }
}
