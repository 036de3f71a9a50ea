//! Tuning records choose the kernel of each call by its shape: exact bucket, nearest, best common, built-in.
#![allow(clippy::unwrap_used)]

mod driver;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use driver::{Counting, Machine, named, stream};
use gdn2::__private::{Call, Driver, Embedded, Gpu, Loaded, Tuning};
use gdn2::{Context, DeviceError, Dtype, Error, Origin, Outputs, Shape, View, ViewMut};
use gdn2_codegen::arch::Arch;
use gdn2_codegen::committed::Committed;
use gdn2_codegen::gpu::Identity;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::record::{
    Basis, Bucket, Provenance, Record, Records, Time, Timed, rule_fingerprint, source_fingerprint,
};
use gdn2_codegen::schedule::Schedule;
use gdn2_codegen::space::{fingerprint, space};
use gdn2_dsl::Rule;
use gdn2_runtime::artifact::Artifact;

const RULE: &str = "rule mine { decay: scalar; erase: none; write: none; key_dim: 32; value_dim: 64; dtype: bf16; }";
const ARCH: Arch = Arch::Sm90a;

fn rule(text: &str) -> Rule {
    gdn2_dsl::parse_file(text).unwrap().remove(0)
}

fn schedule(rule: &Rule, pass: Pass, text: &str) -> Schedule {
    Schedule::from_overrides(rule, pass, ARCH, text).unwrap()
}

/// A record as `gdn2 tune` writes it.
fn record(rule: &Rule, pass: Pass, (heads, tokens): (u64, u64), text: &str) -> Record {
    let winner = schedule(rule, pass, text);
    let time = Time { micros: 10.0, spread: 0.01 };
    Record {
        rule: rule.name.clone(),
        pass,
        bucket: Bucket { heads, tokens },
        winner: Timed { schedule: winner, time },
        built_in: None,
        built_in_failed: None,
        before: None,
        runner_up: None,
        shortlist: Vec::new(),
        correct: 1,
        tried: 1,
        provenance: Provenance {
            rule: rule_fingerprint(rule),
            space: fingerprint(&space(rule, pass, ARCH).unwrap()),
            source: source_fingerprint(rule, pass, winner, ARCH).unwrap(),
            compiler: "NVRTC 13.0".to_owned(),
            arch: ARCH,
            driver: None,
            clock_mhz: 1980,
            basis: Basis::Measured,
        },
    }
}

/// The macro's table for a rule, with machine code for one schedule.
fn embedded(rule: &Rule, tuned: &str) -> &'static [Embedded] {
    let entry = |pass| {
        let built_in = Committed::new(rule, pass, ARCH).unwrap();
        let text = schedule(rule, pass, tuned_part(pass, tuned));
        let kernel = Committed::tuned(rule, pass, ARCH, text).unwrap();
        let cubin: &'static [u8] = kernel.cubin_file(b"machine code", "13.0").leak();
        Embedded {
            pass,
            ptx: vec![(ARCH, &*built_in.ptx_file("ptx", "13.0").leak())].leak(),
            cubins: vec![(ARCH, &*kernel.stem.leak(), cubin)].leak(),
            edited: &[],
        }
    };
    [Pass::Forward, Pass::Decode].map(entry).to_vec().leak()
}

fn tuned_part(pass: Pass, tuned: &str) -> &str {
    if pass == Pass::Forward { tuned } else { "" }
}

fn load(rule: &Rule, gpu: &Counting, records: Vec<Record>, tuned: &str) -> Loaded {
    let mut file = Records::default();
    records.into_iter().for_each(|record| file.insert(record));
    let own = gpu.identity().unwrap().records().leak();
    let tuning = Tuning { gpu: own, records: file.to_text().unwrap().leak().as_bytes() };
    Loaded::through(rule.clone(), embedded(rule, tuned), &[tuning], Arc::new(gpu.clone())).unwrap()
}

#[test]
fn each_shape_gets_the_kernel_of_its_record() {
    let rule = rule(RULE);
    let gpu = Counting { name: "NVIDIA H200", arch: ARCH, ..Counting::new() };
    let (small, large) = ("chunk=16,value_split=1,warps=4,stages=1", "chunk=32,value_split=2,warps=2,stages=1");
    let records = vec![record(&rule, Pass::Forward, (4, 128), small), record(&rule, Pass::Forward, (64, 8192), large)];
    let loaded = load(&rule, &gpu, records, small);
    let said = |shape| loaded.explain(shape)[0].to_string();

    // The record with the most work stands for the rule on load, compiled here for want of machine code.
    let big = Shape::dense(4, 8000, 16, 16);
    assert!(said(big).contains(large) && said(big).contains("record for heads=64,tokens=8192"), "{}", said(big));
    assert_eq!(loaded.explain(big)[0].origin, Some(Origin::Generated));

    let little = Shape::dense(1, 100, 2, 4);
    assert_eq!(loaded.explain(little)[0].origin, None, "nothing is made before it is asked for");
    loaded.warmup(little).unwrap();
    assert!(
        said(little).contains(small) && said(little).contains("(record for heads=4,tokens=128)"),
        "{}",
        said(little)
    );
    assert_eq!(loaded.explain(little)[0].origin, Some(Origin::EmbeddedCubin));

    // Between buckets the nearest serves, and is ready already.
    let before = gpu.loaded.load(Ordering::Relaxed);
    let between = Shape::dense(1, 200, 2, 4);
    loaded.warmup(between).unwrap();
    assert!(said(between).contains("nearest record, heads=4,tokens=128"), "{}", said(between));
    assert_eq!(gpu.loaded.load(Ordering::Relaxed), before, "nothing was loaded again");

    let decode = loaded.explain(little)[1].to_string();
    assert!(decode.contains("built-in, no record applies") && decode.contains("embedded PTX"), "{decode}");
}

#[test]
fn other_rules_records_and_stale_ones() {
    let rule = rule(RULE);
    // A GPU that the program brings no records for.
    let gpu = Counting { name: "NVIDIA H20", arch: ARCH, ..Counting::new() };
    let other = "rule other { decay: none; erase: none; write: none; key_dim: 32; value_dim: 64; dtype: bf16; }";
    let other = gdn2_dsl::parse_file(other).unwrap().remove(0);
    let common = "chunk=16,value_split=1,warps=4,stages=1";
    let mut stale = record(&rule, Pass::Forward, (4, 128), "chunk=32,value_split=2,warps=2,stages=1");
    stale.provenance.source = "another text".to_owned();
    let others = [(4, 128), (8, 256)].map(|bucket| record(&other, Pass::Forward, bucket, common));
    let loaded = load(&rule, &gpu, [stale].into_iter().chain(others).collect(), common);
    let explained = &loaded.explain(Shape::dense(1, 128, 4, 4))[0];
    assert_eq!(explained.schedule.to_string(), common);
    assert!(explained.to_string().contains("wins 2 records of other rules"), "{explained}");
    assert_eq!(explained.origin, Some(Origin::EmbeddedCubin));
}

/// Records go by what the driver says: a card whose name holds another's, a laptop's chip, a slice, a card of no list each
/// get their own and none another's.
#[test]
fn a_gpu_gets_its_own_records_and_no_other_gpus() {
    let rule = rule(RULE);
    let shape = Shape::dense(1, 128, 4, 4);
    let own = "chunk=16,value_split=1,warps=4,stages=1";
    let cards = [
        "NVIDIA H200",
        "NVIDIA RTX A4000",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA H100 PCIe",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "a card of no list",
    ];
    let file = |name: &str| -> &'static str { named(name, ARCH).records().leak() };
    for card in cards {
        let gpu = Counting { name: card, arch: ARCH, ..Counting::new() };
        let step = |of: &str| {
            let mut records = Records::default();
            records.insert(record(&rule, Pass::Forward, (4, 128), own));
            let tuning = Tuning { gpu: file(of), records: records.to_text().unwrap().leak().as_bytes() };
            let loaded = Loaded::through(rule.clone(), embedded(&rule, own), &[tuning], Arc::new(gpu.clone())).unwrap();
            loaded.explain(shape)[0].to_string()
        };
        for other in cards {
            let said = step(other);
            let (used, wanted) = (said.contains("record for heads=4,tokens=128"), other == card);
            assert_eq!(used, wanted, "{card} with records of {other}: {said}");
            assert!(wanted || said.contains("built-in, no record applies"), "{said}");
        }
        for known in ["h200", "h100", "a40", "rtx4090"] {
            let own = named(card, ARCH).records() == known;
            assert_eq!(own, card == "NVIDIA H200" && known == "h200", "{card} is no {known}");
        }
    }
}

/// The virtual machine in the place of a Hopper GPU, and the driver calls it got.
struct Hopper(Machine, Counting);

impl Gpu for Hopper {
    fn arch(&self) -> Arch {
        ARCH
    }

    fn identity(&self) -> Result<Identity, DeviceError> {
        Ok(named("NVIDIA H200", ARCH))
    }

    fn context(&self) -> Context {
        self.0.context()
    }

    fn load(&self, artifact: &Artifact) -> Result<Box<dyn Driver>, DeviceError> {
        self.1.loaded.fetch_add(artifact.kernel.launches.len(), Ordering::Relaxed);
        self.0.load(artifact)
    }
}

/// Segments of a sequence meet in scratch memory: with it a call gets the kernels of its record, without it the built-in
/// one, and either gives what calls on host memory give.
#[test]
fn a_record_in_segments_is_for_calls_with_scratch_memory() {
    const T: usize = 300;
    const HV: usize = 2;
    let rule = rule("rule mine { decay: none; erase: scalar; write: none; key_dim: 32; value_dim: 64; dtype: bf16; }");
    let segments = "chunk=64,value_split=1,warps=4,stages=2,matrix=wgmma,segments=4";
    let mut records = Records::default();
    records.insert(record(&rule, Pass::Forward, (HV as u64, 512), segments));
    let tuning = Tuning { gpu: "h200", records: records.to_text().unwrap().leak().as_bytes() };
    let entry = |pass| Embedded { pass, ptx: &[], cubins: &[], edited: &[] };
    let embedded = [Pass::Forward, Pass::Decode].map(entry).to_vec().leak();
    let (machine, counts) = (Machine::default(), Counting::new());
    let gpu = Arc::new(Hopper(machine.clone(), counts.clone()));
    let loaded = Loaded::through(rule, embedded, &[tuning], gpu).unwrap();
    let shape = Shape::dense(1, T, 1, HV);
    loaded.warmup(shape).unwrap();
    assert!(loaded.explain(shape)[0].to_string().contains("segments=4"));
    let ready = counts.loaded.load(Ordering::Relaxed);
    assert_eq!(ready, 3 + 1 + 1, "three launches, the built-in one and decode's");

    let draw = |elements: usize, step: usize, least: f32| -> Vec<f32> {
        (0..elements).map(|i| least + (i * step % 257) as f32 / 514.0).collect()
    };
    let (keys, values, gates) = (draw(T * 32, 31, -0.25), draw(T * HV * 64, 17, -0.25), draw(T * HV, 13, 0.25));
    fn call<'a>(keys: View<'a>, v: View<'a>, gates: View<'a>) -> Call<'a> {
        let (q, k, b) = (keys, keys, Some(gates));
        Call {
            q,
            k,
            v,
            g: None,
            b,
            w: None,
            named: Default::default(),
            initial_state: None,
            cu_seqlens: None,
            scale: None,
        }
    }
    let host = View::new(&keys, [1, T, 1, 32]).unwrap();
    let [host_values, host_gates] =
        [View::new(&values, [1, T, HV, 64]), View::new(&gates, [1, T, HV])].map(Result::unwrap);
    let want = loaded.forward(call(host, host_values, host_gates)).unwrap();

    let [keys, values, gates] = [keys, values, gates].map(|numbers| machine.upload(&numbers, Dtype::Bf16));
    let given = call(
        View::device(&keys, [1, T, 1, 32]).unwrap(),
        View::device(&values, [1, T, HV, 64]).unwrap(),
        View::device(&gates, [1, T, HV]).unwrap(),
    );
    let mut o = machine.room(T * HV * 64, Dtype::Bf16);
    let mut end = machine.room(HV * 32 * 64, Dtype::F32);
    let bytes = loaded.forward_scratch(shape).unwrap();
    // The states that four segments start from, and two maps.
    assert_eq!(bytes, HV * (4 * 32 * 64 + 2 * 32 * 32) * 4);
    let mut run = |bytes: Option<usize>| {
        let outputs = Outputs {
            o: ViewMut::device(&mut o, [1, T, HV, 64]).unwrap(),
            final_state: Some(ViewMut::device(&mut end, [1, HV, 32, 64]).unwrap()),
        };
        match bytes {
            Some(bytes) => {
                let mut scratch = machine.room(bytes / 4, Dtype::F32);
                loaded.forward_with_scratch_on(stream(), given, outputs, &mut scratch)?;
            }
            None => loaded.forward_on(stream(), given, outputs)?,
        }
        Ok::<_, Error>((machine.read(&o), machine.read(&end)))
    };
    let refused = run(Some(bytes - 4)).unwrap_err().to_string();
    assert!(refused.contains("forward_scratch says"), "{refused}");
    let (segmented, whole) = (run(Some(bytes)).unwrap(), run(None).unwrap());
    assert_eq!(segmented, (want.o.to_f32(), want.final_state.to_f32()), "as on host memory");
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 0.02);
    assert!(close(&segmented.0, &whole.0) && close(&segmented.1, &whole.1), "as in one segment");
    assert_ne!(segmented.1, whole.1, "another kernel");
    assert_eq!(counts.loaded.load(Ordering::Relaxed), ready, "nothing was loaded again");
}
