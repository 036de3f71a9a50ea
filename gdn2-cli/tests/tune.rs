//! `gdn2 tune` from the outside: a sweep, its record, who uses it, and what is said when something is amiss.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

use std::path::PathBuf;
use std::process::Command;

use gdn2_codegen::arch::Arch;
use gdn2_codegen::bind;
use gdn2_codegen::kernel::Pass;
use gdn2_codegen::record::{Basis, Record, Records, source_fingerprint};
use gdn2_codegen::schedule::Schedule;
use gdn2_codegen::space::space;
use gdn2_dsl::{Draw, Rule, parse_file};
use gdn2_runtime::tensors::Case;
use tempfile::TempDir;

const RULE: &str = "rule gdn { decay: scalar; erase: scalar; write: erase; key_dim: 64; value_dim: 64; dtype: bf16; }";
const CALL: [&str; 7] = ["tune", "gdn.gdn2", "--pass", "decode", "--shape", "B=2,T=1,H=2", "--target=h200"];

/// A folder with a rule, in which the program runs.
struct Bench(TempDir);

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("gdn.gdn2"), RULE).unwrap();
        Bench(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Both streams of a run that ends well, or not.
    fn says(&self, good: bool, arguments: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_gdn2")).current_dir(&self.0).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), good, "{arguments:?}: {text}");
        text
    }

    fn tune(&self, more: &[&str]) -> String {
        self.says(true, &[&CALL, more].concat())
    }

    fn record(&self) -> Record {
        let text = std::fs::read_to_string(self.path("tuning/h200.json")).unwrap();
        let (records, damage) = Records::parse(&text);
        assert_eq!((records.iter().count(), damage.as_slice()), (1, [].as_slice()), "{text}");
        records.iter().next().unwrap().clone()
    }

    fn write(&self, record: Record) {
        let mut records = Records::default();
        records.insert(record);
        std::fs::write(self.path("tuning/h200.json"), records.to_text().unwrap()).unwrap();
    }
}

fn rule() -> Rule {
    parse_file(RULE).unwrap().remove(0)
}

/// What a run prints as JSON. Progress comes after it, from standard error.
fn json(text: &str) -> serde_json::Value {
    serde_json::Deserializer::from_str(text).into_iter().next().unwrap().unwrap()
}

#[test]
fn a_sweep_leaves_a_record_that_run_and_emit_pick_up() {
    let bench = Bench::new();
    // The whole machinery, cycles in place of time: the model first, then the sweep, then the two best meet.
    let said = bench.tune(&["--device", "vm"]);
    assert!(said.contains("run-off: ") && said.contains(" counted") && said.contains("record: "), "{said}");
    assert!(said.contains("\nall 5 legal candidates of 32 were looked at\n"), "{said}");
    let few = bench.tune(&["--device", "vm", "--candidates", "2", "--records", "few"]);
    assert!(few.contains("\n3 of 5 legal candidates were never looked at\n"), "{few}");
    let record = bench.record();
    assert!(record.built_in.is_some() && record.correct > 2, "{record:?}");

    // The report draws it, and other tools read it: every candidate once or more, the illegal with their reason.
    bench.says(true, &["report", "tuning/h200.log.jsonl", "--html", "page.html", "--t4", "t4.json"]);
    let page = std::fs::read_to_string(bench.path("page.html")).unwrap();
    for drawing in ["time against value_split", "time against warps", "roofline", "rejected by reason"] {
        assert!(page.contains(&format!("aria-label=\"{drawing}\"")), "no drawing of {drawing}");
    }
    assert!(page.contains(" wins with ") && !page.contains("src="), "{page}");
    assert!(page.contains("Begun") && page.contains("tune gdn.gdn2 --pass decode"), "{page}");
    let t4: serde_json::Value = serde_json::from_slice(&std::fs::read(bench.path("t4.json")).unwrap()).unwrap();
    let results = t4["results"].as_array().unwrap();
    let refused = results.iter().filter(|result| result["invalidity"] == "constraints").count();
    assert!(results.len() >= record.tried as usize && refused > 0, "{refused} of {}", results.len());
    // What never ran has no times, not times of 0.
    let times = |result: &serde_json::Value| result["times"].as_object().unwrap().len();
    assert!(results.iter().all(|result| (times(result) == 0) == (result["invalidity"] == "constraints")), "{t4}");

    // Another winner than the built-in schedule, as a GPU might find.
    let built_in = Schedule::default_for(&rule(), Pass::Decode, Arch::Sm90a).unwrap();
    let legal = |schedule: &Schedule| bind(&rule(), Pass::Decode, *schedule, Arch::Sm90a).is_ok();
    let others = space(&rule(), Pass::Decode, Arch::Sm90a).unwrap();
    let other = others.into_iter().rfind(|schedule| *schedule != built_in && legal(schedule)).unwrap();
    let mut tuned = record.clone();
    tuned.winner.schedule = other;
    tuned.provenance.source = source_fingerprint(&rule(), Pass::Decode, other, Arch::Sm90a).unwrap();
    bench.write(tuned.clone());

    let why = bench.tune(&["--why"]);
    assert!(why.contains(&other.to_string()) && why.contains("record for heads=4,tokens=1"), "{why}");
    let beside = format!(" counted, no measurement; its calls got {built_in} before, which takes ");
    assert!(why.contains(&beside) && why.contains("NVRTC 13"), "{why}");
    // What is said of this call is of this call, whatever stands in the record.
    let own = |why: &str| why.lines().find(|line| line.starts_with("  this call by the clock: ")).map(str::to_owned);
    assert!(own(&why).is_some_and(|line| line.contains(" predicted, from ")), "{why}");
    let larger = ["tune", "gdn.gdn2", "--pass=decode", "--shape=B=256,T=1,H=16", "--target=h200", "--why"];
    let larger = bench.says(true, &larger);
    assert!(larger.contains("record for heads=4,tokens=1, 10 doublings away: "), "{larger}");
    assert!(own(&larger).is_some() && own(&larger) != own(&why), "{why}{larger}");
    let emit = ["emit", "gdn.gdn2", "--pass", "decode", "--arch", "sm_90a", "--emit", "abi"];
    let abi: serde_json::Value = serde_json::from_str(&bench.says(true, &emit)).unwrap();
    assert_eq!(serde_json::from_value::<Schedule>(abi["schedule"].clone()).unwrap(), other);
    let case = Case::drawn(&rule(), &Draw::new(2, 1, 2, 2, 7), false).unwrap();
    std::fs::write(bench.path("in.safetensors"), case.to_bytes().unwrap()).unwrap();
    let run = ["run", "gdn.gdn2", "--pass=decode", "--device=vm", "--arch=sm_90a", "--inputs=in.safetensors"];
    let run = [&run[..], &["--out", "out.safetensors"]].concat();
    let ran = bench.says(true, &run);
    assert!(ran.contains(&other.to_string()), "{ran}");

    // A measurement is not replaced by less.
    tuned.provenance.basis = Basis::Measured;
    bench.write(tuned.clone());
    let said = bench.tune(&["--device", "vm"]);
    assert!(said.contains("keeps the measured winner") && bench.record() == tuned, "{said}");
    // All of these lie on memory's floor by the clock, which says so and leaves the record alone.
    let said = bench.tune(&["--device", "model"]);
    assert!(said.contains("no record: calls get ") && bench.record() == tuned, "{said}");

    // A record of another text is not used, and a damaged one costs itself alone: both are said.
    tuned.provenance.source = "0".repeat(16);
    bench.write(tuned);
    let why = bench.tune(&["--why"]);
    assert!(why.contains(&format!("{built_in} (built-in")) && why.contains("text has changed"), "{why}");
    std::fs::write(bench.path("tuning/h200.json"), "[\n{\"rule\":\"gdn\",\n]\n").unwrap();
    let ran = bench.says(true, &run);
    assert!(ran.contains("h200.json: line 2") && ran.contains(&built_in.to_string()), "{ran}");
}

#[test]
fn times_refit_the_model_and_the_next_sweep_believes_them() {
    let bench = Bench::new();
    bench.tune(&["--device", "vm"]);
    let before = bench.tune(&["--device", "model", "--records", "before"]);
    let said = bench.says(true, &["tune", "calibrate", "--measured", "tuning/h200.log.jsonl"]);
    assert!(said.contains("a rehearsal only"), "{said}");
    assert!(said.contains("candidates: median error") && said.contains("tuning/constants/h200.json"), "{said}");
    let constants = std::fs::read_to_string(bench.path("tuning/constants/h200.json")).unwrap();
    assert!(constants.contains("refitted on"), "{constants}");
    let after = bench.tune(&["--device", "model"]);
    let band = |text: &str| text.lines().find(|line| line.contains(" wins with ")).map(str::to_owned);
    assert!(band(&before).is_some() && band(&before) != band(&after), "{before}{after}");
}

#[test]
fn the_illegal_are_explained_and_mistakes_say_what_to_type() {
    let bench = Bench::new();
    let table = bench.tune(&["--explain-illegal"]);
    let split = table.lines().find(|line| line.contains("1 to 4 blocks of 16 value rows")).unwrap();
    assert!(
        split.starts_with(" value_split ") && split.contains(" 8 ") && split.contains("value_split=8,warps=1"),
        "{table}"
    );
    assert!(table.contains("candidates are not legal on sm_90a"), "{table}");
    let wrong = |arguments: &[&str], hint: &str| {
        let said = bench.says(false, &[&["tune", "gdn.gdn2"], arguments].concat());
        assert!(said.contains(hint), "no `{hint}` in: {said}");
    };
    wrong(&["--shape", "B=1,T=1,H=1"], "--target h200");
    wrong(&["--shape", "B=1,T=1,H=1", "--target", "h2000"], "use one of a100");
    wrong(&["--shape", "B=1,H=1", "--target", "h200"], "needs B, T and H");
    wrong(&["--shape", "B=1,T=0,H=1", "--target", "h200"], "T must be from 1");
    wrong(&["--shape", "B=1,T=1,H=1", "--target", "h200", "--budget", "10"], "90s, 10m or 1h");
    wrong(&["--shape", "B=1,T=1,H=1", "--target", "h200", "--search", "best"], "grid, random, halving or guided");
    wrong(&["--shape", "B=1,T=1,H=1", "--target", "h200", "--device", "gpu"], "use cuda:N, model or vm");
    wrong(&["--shape", "B=1,T=1,H=1", "--target", "h200", "--replay", "none.jsonl"], "none.jsonl");
    let said = bench.says(false, &["tune", "calibrate", "--measured", "none.jsonl"]);
    assert!(said.contains("none.jsonl"), "{said}");
}

/// A GPU of no list: its constants come from a file, its records go to a file of their own.
#[test]
fn a_file_of_constants_is_a_gpu_of_its_own() {
    let bench = Bench::new();
    let shipped = include_str!("../../tuning/constants/a40.json");
    let own = shipped.replace("\"a40\"", "\"rtx-a4000-48sm-448gbs\"").replace("\"value\": 84,", "\"value\": 48,");
    std::fs::write(bench.path("mine.json"), &own).unwrap();
    let call = ["tune", "gdn.gdn2", "--pass=decode", "--shape=B=2,T=1,H=2"];
    fn of<'a>(call: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
        [call, more].concat()
    }
    let said = bench.says(true, &of(&call, &["--target=mine.json", "--device=vm", "--candidates=2"]));
    assert!(said.contains("gdn decode on rtx-a4000-48sm-448gbs"), "{said}");
    let (records, damage) = Records::parse(std::fs::read(bench.path("tuning/rtx-a4000-48sm-448gbs.json")).unwrap());
    let record = records.iter().next().unwrap();
    assert!(damage.is_empty() && record.provenance.arch == Arch::Sm86, "{record:?}");
    assert!(!bench.path("tuning/a40.json").exists(), "another GPU's records");
    // From now on its name is enough, for predictions as well.
    let why = bench.says(true, &of(&call, &["--target=rtx-a4000-48sm-448gbs", "--why"]));
    assert!(why.contains("record for heads=4,tokens=1") && why.contains(" predicted, from "), "{why}");
    let predict = ["predict", "gdn.gdn2", "--pass=decode", "--shape=B=2,T=1,H=2", "--target"];
    let predicted = bench.says(true, &[&predict[..], &["rtx-a4000-48sm-448gbs"]].concat());
    assert!(predicted.contains("on rtx-a4000-48sm-448gbs: predicted"), "{predicted}");
    // The same name with other numbers is a contradiction, a name of the list another GPU's, a broken file is said.
    std::fs::write(bench.path("mine.json"), own.replace("\"value\": 48,", "\"value\": 46,")).unwrap();
    let said = bench.says(false, &of(&call, &["--target=mine.json", "--device=vm"]));
    assert!(said.contains("holds other constants"), "{said}");
    std::fs::write(bench.path("theirs.json"), shipped).unwrap();
    let said = bench.says(false, &of(&call, &["--target=theirs.json", "--why"]));
    assert!(said.contains("that is a GPU of the list"), "{said}");
    std::fs::write(bench.path("broken.json"), "{}").unwrap();
    let said = bench.says(false, &of(&call, &["--target=broken.json", "--why"]));
    assert!(said.contains("constants of broken.json"), "{said}");
    let said = bench.says(false, &of(&call, &["--target=none.json", "--why"]));
    assert!(said.contains("cannot read none.json"), "{said}");
}

#[test]
fn a_prediction_stands_beside_its_floor_and_what_others_published() {
    let bench = Bench::new();
    let text = RULE.replace("_dim: 64", "_dim: 128");
    std::fs::write(bench.path("gdn128.gdn2"), text).unwrap();
    let shapes = ["--shape", "B=8,T=8192,H=16", "--shape", "B=1,T=8192,H=16"];
    let said = bench.says(true, &[&["predict", "gdn128.gdn2", "--target", "h200"], &shapes[..]].concat());
    assert!(said.contains("predicted, not measured"), "{said}");
    // With mma and with wgmma; 16 heads leave multiprocessors idle, so in eight segments as well.
    let expected = [("B=8,", "0.442 ms by FlashInfer on H200", 2, 1), ("B=1,", "0.178 ms by FlashQLA on H200", 3, 2)];
    for (shape, published, all, wgmma) in expected {
        let heading = |line: &&str| line.starts_with(&format!("gdn {shape}")) && line.ends_with(published);
        let under = said.lines().skip_while(|line| !heading(line)).take_while(|line| !line.is_empty());
        let of: Vec<_> = under.filter(|row| row.contains("chunk=64")).collect();
        let with = of.iter().filter(|row| row.contains("matrix=wgmma")).count();
        assert_eq!((of.len(), with), (all, wgmma), "{said}");
    }
    let said = bench.says(false, &["predict", "gdn.gdn2", "--target", "h2000", "--shape", "B=1,T=64,H=1"]);
    assert!(said.contains("use one of a100"), "{said}");
    let refused = ["predict", "gdn.gdn2", "--target", "h200", "--shape", "B=1,T=64,H=1", "--schedule", "chunk=63"];
    let said = bench.says(false, &refused);
    assert!(said.contains("constraints") && said.contains("chunk"), "{said}");
    let one = ["predict", "gdn.gdn2", "--target", "h200", "--shape", "B=8,T=8192,H=16"];
    let said = bench.says(true, &[&one[..], &["--schedule", "matrix=wgmma", "--json"]].concat());
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let row = &said["rows"][0];
    let (low, micros, high) = (row["low"].as_f64(), row["micros"].as_f64(), row["high"].as_f64());
    assert!(low < micros && micros < high, "wgmma is explained in two ways: {row}");
    assert!(row["decided_by"].is_string() && row["rule"] == "gdn" && row["pass"] == "forward", "{row}");
    let said = bench.says(true, &[&one[..], &["--schedule", "matrix=wgmma", "--roles"]].concat());
    assert!(said.contains("warps 0 to 3") && said.contains("mbarriers"), "{said}");
}

/// One command in a crate: rules of its files and of its macros, several shapes, a table of what each call got; what CI asks
/// before and after; logs of two machines as one.
#[test]
fn a_crate_is_tuned_by_one_command() {
    let bench = Bench::new();
    std::fs::create_dir_all(bench.path("src")).unwrap();
    std::fs::write(bench.path("Cargo.toml"), "[package]\nname = \"mine\"\n").unwrap();
    let own = RULE.replace("rule gdn", "pub mod mine").replace("decay: scalar", "decay: none");
    std::fs::write(bench.path("src/lib.rs"), format!("gdn2::delta_rule! {{ {own} }}\n")).unwrap();
    let call = ["--pass=decode", "--shape=B=2,T=1,H=2", "--shape", "B=16,T=1,H=2", "--target=h200"];
    let tune = |more: &[&str]| bench.says(true, &[&["tune"], &call[..], more].concat());
    let check = tune(&["--check"]);
    assert!(check.starts_with("4 calls on h200") && check.contains("no record of these calls is stale"), "{check}");
    assert_eq!(check.matches("built-in, no record applies").count(), 4, "{check}");

    // Calls that programs wrote down, each for its own rule.
    let seen = "gdn decode B=2,T=1,H=2,HV=2 7\nmine decode B=16,T=1,H=2,HV=2 1\ngdn forward B=1,T=64,H=2,HV=2 5\n";
    std::fs::write(bench.path("seen.txt"), format!("{seen}# words\n{seen}")).unwrap();
    let check = bench.says(true, &["tune", "--seen=seen.txt", "--target=h200", "--check"]);
    assert!(check.starts_with("3 calls on h200") && check.contains("B=1,T=64,H=2,HV=2"), "{check}");
    let check = bench.says(true, &["tune", "--seen=seen.txt", "--pass=decode", "--target=h200", "--check"]);
    assert!(check.starts_with("2 calls on h200") && !check.contains("T=64"), "{check}");
    std::fs::write(bench.path("seen.txt"), "gdn decode B=2,T=1,H=2,HV=2 7\nother decode B=2 1\n").unwrap();
    let said = bench.says(false, &["tune", "--seen=seen.txt", "--target=h200", "--check"]);
    assert!(said.contains("seen.txt: line 2: ") && said.contains("such as `kda forward"), "{said}");
    std::fs::write(bench.path("seen.txt"), "other decode B=2,T=1,H=2,HV=2 7\n").unwrap();
    let said = bench.says(false, &["tune", "--seen=seen.txt", "--target=h200", "--check"]);
    assert!(said.contains("names rule `other`"), "{said}");

    let said = tune(&["--device=vm", "--budget=2m", "--records=first"]);
    let row = |line: &&str| line.contains(" decode ") && line.contains(" µs ");
    let columns = |line: &str| line.split("  ").filter(|cell| !cell.trim().is_empty()).count();
    let (heads, rows) = (said.lines().find(|line| line.contains("why the search ended")), said.lines().filter(row));
    let whole = rows.filter(|row| columns(row) == heads.map_or(0, columns)).count();
    assert_eq!(whole, 4, "a call lacks a column, such as why its search ended: {said}");
    assert!(said.contains("4 calls on h200, times counted") && said.contains("\nnext: gdn2 prepare"), "{said}");
    for rule in [" gdn  decode", " mine  decode"] {
        let mut rows = said.lines().filter(|line| line.contains(rule) && line.contains(" µs "));
        let row = rows.clone().next().unwrap_or_default();
        assert!(
            rows.all(|row| row.matches(" µs ").count() >= 2 && row.contains("record: first/h200.json")),
            "{row}{said}"
        );
    }
    let said = bench.says(true, &[&["tune", "src/lib.rs#mine"], &call[..], &["--check", "--records=first"]].concat());
    assert!(said.starts_with("2 calls on h200") && said.matches("record for heads=").count() == 2, "{said}");

    // The same for other programs.
    let check = json(&tune(&["--check", "--records=first", "--json"]));
    assert_eq!((check["calls"].as_array().unwrap().len(), check["stale"].as_array().unwrap().len()), (4, 0), "{check}");
    assert!(check["calls"][0]["from"].as_str().unwrap().starts_with("record for heads="), "{check}");
    let again = json(&tune(&["--device=vm", "--budget=2m", "--records=first", "--json"]));
    let calls = again["calls"].as_array().unwrap();
    assert_eq!((calls.len(), &again["times"], &again["gpu"]), (4, &"counted".into(), &"h200".into()), "{again}");
    assert!(calls.iter().all(|call| call["after_micros"].as_f64().unwrap() > 0.0 && call["ended"] != ""), "{again}");
    let report = json(&bench.says(true, &["report", "first/h200.log.jsonl", "--rule=mine", "--json"]));
    let searches = report.as_array().unwrap();
    assert!(searches.len() >= 2 && searches.iter().all(|search| search["rule"] == "mine"), "{report}");
    for search in searches {
        let candidates = search["candidates"].as_array().unwrap();
        assert!(!candidates.is_empty() && candidates.len() as u64 <= search["legal"].as_u64().unwrap(), "{search}");
        assert!(candidates.iter().any(|candidate| candidate["schedule"] == search["winner"]), "{search}");
    }

    // A record of a kernel whose text has changed since: CI fails, and says which.
    let path = bench.path("first/h200.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let record = Records::parse(&text).0.iter().next().unwrap().clone();
    std::fs::write(&path, text.replacen(&record.provenance.source, &"0".repeat(16), 1)).unwrap();
    let said = bench.says(false, &[&["tune"], &call[..], &["--check", "--records=first"]].concat());
    assert!(said.contains("1 records are stale") && said.contains("its kernel's text has changed since"), "{said}");

    // Two machines looked at other candidates; a search over both logs has nothing left to look at.
    let one = ["tune", "gdn.gdn2", "--pass=decode", "--shape=B=2,T=1,H=2", "--target=h200", "--device=vm"];
    bench.says(true, &[&one[..], &["--search=random", "--seed=1", "--records=a", "--log=a.jsonl"]].concat());
    bench.says(true, &[&one[..], &["--candidates=1", "--records=b", "--log=b.jsonl"]].concat());
    let said = bench.says(true, &["tune", "merge", "a.jsonl", "b.jsonl", "a.jsonl", "--out", "all.jsonl"]);
    assert!(said.starts_with("all.jsonl: ") && said.contains(" of 3 logs, ") && said.contains("2 searches"), "{said}");
    let lines = |name: &str| -> std::collections::BTreeSet<String> {
        std::fs::read_to_string(bench.path(name)).unwrap().lines().map(str::to_owned).collect()
    };
    assert_eq!(lines("all.jsonl"), &lines("a.jsonl") | &lines("b.jsonl"));
    let said = bench.says(true, &[&one[..], &["--records=c", "--log=all.jsonl"]].concat());
    assert!(
        said.contains("\nall 5 legal candidates of 32 were looked at\nrejected: 27 constraints\n")
            && !said.contains(" 0 looks known"),
        "{said}"
    );

    let said = bench.says(false, &["tune", "src", "--target=h200", "--shape=B=1,T=1,H=1"]);
    assert!(said.contains("src has no rule"), "{said}");
    let said = bench.says(false, &["tune", "src/lib.rs#theirs", "--target=h200", "--shape=B=1,T=1,H=1"]);
    assert!(said.contains("no rule `theirs`"), "{said}");
}

/// Of two calls with as much work the one that programs make three times as often gets three quarters of the budget, and
/// its turn first.
#[test]
fn the_budget_goes_by_how_often_programs_make_a_call() {
    let bench = Bench::new();
    for (folder, often, seldom) in
        [("a", "B=2,T=1,H=4,HV=4", "B=4,T=1,H=2,HV=2"), ("b", "B=4,T=1,H=2,HV=2", "B=2,T=1,H=4,HV=4")]
    {
        // Two programs made the one call, one the other.
        let seen = format!("gdn decode {often} 10\ngdn decode {seldom} 10\ngdn decode {often} 20\n");
        std::fs::write(bench.path("seen.txt"), seen).unwrap();
        let limits = ["--device=vm", "--candidates=1", "--budget=80s", "--records", folder];
        let said = bench.says(true, &[&["tune", "gdn.gdn2", "--seen=seen.txt", "--target=h200"], &limits[..]].concat());
        let (first, second) =
            (said.find(&format!("gdn decode {often}: 60 s\n")), said.find(&format!("gdn decode {seldom}: ")));
        assert!(first.is_some() && first < second, "{said}");
    }
}

#[test]
fn what_a_search_for_one_call_came_to_is_there_as_json() {
    let bench = Bench::new();
    let found = json(&bench.tune(&["--device=vm", "--json"]));
    let [call] = found["calls"].as_array().unwrap().as_slice() else { panic!("{found}") };
    assert_eq!((&found["gpu"], &found["times"], &call["rule"]), (&"h200".into(), &"counted".into(), &"gdn".into()));
    assert_eq!(found["written"], call["written"], "{found}");
    assert_eq!(found["written"] == true, bench.path("tuning/h200.json").exists(), "{found}");
    let report = &found["report"];
    let candidates = report["candidates"].as_array().unwrap();
    assert_eq!((report["legal"].as_u64(), candidates.len()), (Some(5), 5), "{report}");
    let micros = |candidate: &serde_json::Value| candidate["micros"].as_f64().unwrap();
    let winner = candidates.iter().find(|candidate| candidate["schedule"] == report["winner"]).unwrap();
    assert!(candidates.iter().all(|candidate| micros(candidate) >= micros(winner)), "{report}");
    assert!(call["after_micros"].as_f64().unwrap() <= call["before_micros"].as_f64().unwrap(), "{found}");
}

#[test]
fn tuners_that_share_a_folder_lose_no_record() {
    let bench = Bench::new();
    let shapes: Vec<String> = (1..=3).map(|batch| format!("B={batch},T=1,H=1")).collect();
    let arguments = |shape: &str, records: &str| {
        let log = format!("{shape}.jsonl");
        let call =
            ["tune", "gdn.gdn2", "--pass=decode", "--target=h200", "--device=vm", "--candidates=1", "--workers=1"];
        let own = ["--shape", shape, "--records", records, "--log", &log];
        call.into_iter().chain(own).map(str::to_owned).collect::<Vec<String>>()
    };
    // Each once alone: afterwards its log knows every result, and all end at nearly the same moment.
    for shape in &shapes {
        let arguments = arguments(shape, "alone");
        bench.says(true, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }
    for round in 0..3 {
        let records = format!("shared-{round}");
        let tuners: Vec<_> = shapes
            .iter()
            .map(|shape| {
                let mut tuner = Command::new(env!("CARGO_BIN_EXE_gdn2"));
                tuner.current_dir(&bench.0).args(arguments(shape, &records));
                tuner.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
            })
            .collect();
        for mut tuner in tuners {
            assert!(tuner.wait().unwrap().success());
        }
        let text = std::fs::read(bench.path(&records).join("h200.json")).unwrap();
        let (kept, damage) = Records::parse(text);
        assert_eq!((kept.iter().count(), damage.len()), (shapes.len(), 0), "round {round}");
    }
}
