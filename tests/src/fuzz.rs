//! What the fuzz targets do with any bytes, and what the suite replays: read them as one kind of input, and hold what was
//! understood to what must then be true. Refusals are fine; panics are not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a finding")]

use gdn2_codegen::arch::Arch;
use gdn2_codegen::record::Records;
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::{Rule, parse_file};
use gdn2_runtime::device::Device;
use gdn2_runtime::engine::{Run, execute};
use gdn2_runtime::problem::Problem;
use gdn2_runtime::tensors::Case;
use gdn2_tune::log::Contents;
use gdn2_tune::replay::Replay;
use gdn2_tune::report::{self, Findings};
use gdn2_tune::t4;
use gdn2_vm::launch_file::{LaunchFile, LaunchFileError};
use gdn2_vm::{Address, Check, Landing, Launch, Limits, Memory, Module, Value, run};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};
use std::path::Path;
use std::sync::LazyLock;

/// A target: its name, which is also the folder of its corpus, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 6] = [
    ("rule_text", rule_text),
    ("case_file", case_file),
    ("records", records),
    ("log", log),
    ("launch_file", launch_file),
    ("ptx", ptx),
];

/// Numbers of a case up to which it is also run.
const SMALL: f64 = 1e5;

/// Rule text: mistakes can be drawn over it; rules read back as themselves and become kernels or are refused.
pub fn rule_text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let rules = match parse_file(text) {
        Ok(rules) => rules,
        Err(mistakes) => {
            assert!(!mistakes.mistakes.is_empty());
            assert!(mistakes.render("file", text, false).contains("error: file: "));
            return;
        }
    };
    for rule in rules {
        let plain = Rule { doc: String::new(), ..rule.clone() };
        assert_eq!(parse_file(&plain.to_string()).unwrap(), std::slice::from_ref(&plain));
        assert_eq!(parse_file(&rule.to_string()).unwrap().len(), 1, "{rule}");
        assert_eq!(rule.clone().checked().unwrap(), rule);
        let reference = gdn2_codegen::torch_ref(&rule);
        assert!(!reference.contains("#error"), "{reference}");
        assert!(!rule.recurrence().is_empty() && !rule.tensors().is_empty());
    }
}

/// A case file: what it holds fits a rule or not; a small problem runs.
pub fn case_file(bytes: &[u8]) {
    let Ok(case) = Case::from_bytes(bytes) else { return };
    if case.to_bytes().is_ok_and(|bytes| Case::from_bytes(&bytes).is_err()) {
        panic!("a case that was read cannot be read again");
    }
    let Ok(rule) = case.rule() else { return };
    let Ok(problem) = Problem::new(&rule, &case) else { return };
    if problem.dims().numbers(problem.initial_pool().max(problem.final_pool())) <= SMALL {
        let device = Device::cpu();
        let run = Run::new(&rule, gdn2_codegen::kernel::Pass::Forward, &device);
        let outcome = execute(&run, None, &problem).unwrap();
        assert!(outcome.tensors.values().all(|array| array.data.len() == array.shape.iter().product::<usize>()));
    }
}

/// A file of records: what was understood survives being written; a schedule of it is legal for a rule or refused.
pub fn records(bytes: &[u8]) {
    let (records, _) = Records::parse(bytes);
    let text = records.to_text().unwrap();
    let (again, damage) = Records::parse(text);
    assert!(damage.is_empty(), "{damage:?}");
    assert_eq!(again.iter().count(), records.iter().count());
    for record in records.iter() {
        for rule in shipped() {
            let (pass, schedule, arch) = (record.pass, record.winner.schedule, record.provenance.arch);
            if let Ok(kernel) = gdn2_codegen::bind(&rule, pass, schedule, arch) {
                assert!(!gdn2_codegen::render(&kernel).text.contains("#error"));
            }
            // What a schedule says of itself is understood.
            let read = Schedule::from_overrides(&rule, pass, arch, &schedule.to_string());
            assert!(read.is_err() || read.is_ok_and(|read| read == schedule), "{schedule}");
        }
    }
}

fn shipped() -> Vec<Rule> {
    parse_file(include_str!("../../rules/gdn2.gdn2")).unwrap()
}

/// A log of sweeps: every search of it can be reported in each way, or is refused.
pub fn log(bytes: &[u8]) {
    let contents = Contents::parse(bytes);
    for search in &contents.searches {
        let _ = t4::export(&contents, search).to_string();
        let replay = Replay::of(&contents, &search.search);
        let _ = (replay.best(), replay.found(), replay.points());
        if let Ok(findings) = Findings::of(&contents, search, None) {
            let _ = report::table(&findings);
            let _ = report::html(&findings);
        }
    }
}

/// PTX: a text that is refused, or kernels that end under full checks in a report or a trap.
pub fn ptx(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(module) = Module::parse(text) else { return };
    let entries: Vec<String> = module.entries().take(2).map(str::to_owned).collect();
    for entry in &entries {
        for pointers in 0..3 {
            let mut memory = Memory::new();
            let mut args: Vec<Value> =
                (0..pointers).map(|_| Value::Pointer(memory.upload("buffer", &[0; 4096]).0)).collect();
            args.push(Value::I32(16));
            let launch = Launch {
                entry,
                grid: [1, 1, 1],
                block: [64, 1, 1],
                shared_bytes: 4096,
                args: &args,
                limits: Limits { shared_per_block: 160 << 10, threads_per_block: 1024, sm: Arch::Sm90a.limits().sm },
                check: Check::Full,
                landing: Landing::Late,
                order: None,
                outputs: &[],
                count: false,
                instructions: 1 << 10,
            };
            let _ = run(&module, &launch, &mut memory);
        }
    }
}

/// Kernels that launch files of the corpus launch.
static LAUNCHED: LazyLock<Module> =
    LazyLock::new(|| Module::parse(include_str!("../../fuzz/corpus/launched.ptx")).unwrap());

/// The file that every buffer from a file is from: a tensor of each dtype, by its name in lower case.
static TENSORS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let all = [
        Dtype::BOOL,
        Dtype::F4,
        Dtype::F6_E2M3,
        Dtype::F6_E3M2,
        Dtype::U8,
        Dtype::I8,
        Dtype::F8_E5M2,
        Dtype::F8_E4M3,
        Dtype::F8_E8M0,
        Dtype::I16,
        Dtype::U16,
        Dtype::F16,
        Dtype::BF16,
        Dtype::I32,
        Dtype::U32,
        Dtype::F32,
        Dtype::C64,
        Dtype::F64,
        Dtype::I64,
        Dtype::U64,
    ];
    let bytes: Vec<u8> = (0..256u32).map(|i| (i * 167 + 13) as u8).collect();
    let view = |dtype: Dtype| {
        let view = TensorView::new(dtype, vec![4, 8], &bytes[..4 * dtype.bitsize()]).unwrap();
        (dtype.to_string().to_lowercase(), view)
    };
    serialize(all.map(view), None).unwrap()
});

/// A launch file: its launches run on a memory that holds its buffers, or it says what is wrong with it.
pub fn launch_file(bytes: &[u8]) {
    let Ok(file) = LaunchFile::parse(bytes) else { return };
    let read = |path: &Path| -> Result<Vec<u8>, LaunchFileError> {
        // One that ends early is as good as any that is no such file.
        let cut = path.to_string_lossy().contains("cut");
        Ok(TENSORS[..if cut { TENSORS.len() - 100 } else { TENSORS.len() }].to_vec())
    };
    let mut memory = Memory::new();
    let buffers = match file.place(&mut memory, 1 << 16, read) {
        Ok(buffers) => buffers,
        Err(error) => return assert!(error.to_string().contains("buffer `"), "{error}"),
    };
    let outputs: Vec<Address> = buffers.values().filter(|buffer| buffer.output).map(|buffer| buffer.address).collect();
    for spec in &file.launches {
        let (Ok(grid), Ok(block), Ok(values)) = (spec.grid(), spec.block(), spec.values(&buffers)) else { return };
        let block = block.unwrap_or([32, 1, 1]);
        let many = |three: [u32; 3]| three.iter().map(|n| f64::from(*n)).product::<f64>();
        if many(grid) > 8.0 || many(block) > 256.0 {
            continue;
        }
        let launch = Launch {
            entry: spec.entry.as_deref().unwrap_or("add"),
            grid,
            block,
            shared_bytes: spec.shared_bytes.unwrap_or(0),
            args: &values.into_iter().map(|(value, _)| value).collect::<Vec<_>>(),
            limits: Limits { shared_per_block: 227 << 10, threads_per_block: 1024, sm: Arch::Sm90a.limits().sm },
            check: Check::Full,
            landing: Landing::Late,
            order: None,
            outputs: &outputs,
            count: false,
            instructions: 1 << 10,
        };
        let _ = run(&LAUNCHED, &launch, &mut memory);
    }
    for (name, buffer) in &buffers {
        let view = TensorView::new(buffer.dtype, buffer.shape.clone(), memory.read(buffer.address));
        assert!(view.is_ok(), "buffer `{name}` is no tensor: {view:?}");
    }
}
