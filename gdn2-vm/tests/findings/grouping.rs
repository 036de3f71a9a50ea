//! One thing that is missing is one finding, with where it would go.

use super::{kernel, launched};
use gdn2_vm::{Finding, Landing, Report};

/// Findings of two warps that run this with lines, each thread's word of shared memory at %r4, and at %r5 that of a thread
/// of the other warp.
fn lined(body: &str) -> Vec<Finding> {
    lined_report(body).findings
}

fn lined_report(body: &str) -> Report {
    let own = "mov.u32 %r2, s;\nshl.b32 %r3, %r1, 2;\nadd.s32 %r4, %r2, %r3;\nxor.b32 %r5, %r3, 128;\nadd.s32 %r5, %r2, %r5;\n";
    let ptx = kernel(".shared .align 16 .b8 s[4096];", &format!("{own}{body}"));
    launched(&ptx.replace(".visible", ".file 1 \"k.cu\"\n.visible"), 64, Landing::Early).unwrap().1
}

fn line(number: u32, instruction: &str) -> String {
    format!(".loc 1 {number} 1\n{instruction}\n")
}

fn store(number: u32, at: u32) -> String {
    line(number, &format!("st.shared.u32 [%r4+{at}], %r1;"))
}

fn load(number: u32, at: u32) -> String {
    line(number, &format!("ld.shared.u32 %r6, [%r5+{at}];"))
}

const BARRIER: &str = "bar.sync 0;\n";

#[test]
fn a_missing_barrier_is_one_finding_with_its_place() {
    let two = [store(5, 0), store(6, 512), load(8, 0), load(9, 512)].concat();
    let found = lined(&two);
    let [only] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(only.also.len(), 1, "{only}");
    assert_eq!(only.times, 2 * 64, "every lane, at both: {only}");
    assert!(only.fix.ends_with("after line 6 and before line 8"), "{only}");
    let pair = |text: &str| text.contains("k.cu:9") && text.contains("k.cu:6");
    assert!(only.to_string().lines().any(|line| line.contains("also at") && pair(line)), "{only}");
    assert!(lined(&[store(5, 0), store(6, 512), BARRIER.to_owned(), load(8, 0), load(9, 512)].concat()).is_empty());
    // Written out twice by the compiler, and right in between: one pair of lines all the same.
    let found = lined(&[&two, BARRIER, &two].concat());
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].times, 4 * 64);
}

#[test]
fn faults_behind_many_others_are_told_and_those_beyond_are_counted() {
    // A hundred faults with a barrier behind each; then one whose pairs of lines alone are more than are told.
    let fault = |i: u32| [store(2 * i, 0), load(2 * i + 1, 0), BARRIER.to_owned()].concat();
    let all: String = (5..105).map(fault).collect();
    let report = lined_report(&all);
    assert_eq!((report.findings.len(), report.left_out), (64, 36));
    let unrolled: String = [store(5, 0)].into_iter().chain((0..100).map(|i| load(200 + i, 0))).collect();
    let found = lined(&[&unrolled, BARRIER, &fault(400)].concat());
    assert_eq!(found.len(), 2, "{found:#?}");
}

#[test]
fn two_missing_barriers_are_two_findings() {
    let found = lined(&[store(5, 0), load(8, 0), BARRIER.to_owned(), store(15, 512), load(18, 512)].concat());
    let fixes: Vec<&str> = found.iter().map(|f| f.fix.rsplit(": ").next().unwrap()).collect();
    assert_eq!(fixes, ["after line 5 and before line 8", "after line 15 and before line 18"]);
}

#[test]
fn a_barrier_missing_at_a_loops_end_says_so() {
    let ahead = "mov.u32 %r7, 0;\nL:\n";
    let end = line(10, "add.s32 %r7, %r7, 1;\nsetp.lt.s32 %p1, %r7, 3;\n@%p1 bra L;");
    let found = lined(&[ahead, &store(5, 0), BARRIER, &load(8, 0), &end].concat());
    let [only] = &found[..] else { panic!("{found:#?}") };
    assert!(only.fix.ends_with("after line 8, before line 5 comes round again"), "{only}");
    assert!(lined(&[ahead, &store(5, 0), BARRIER, &load(8, 0), BARRIER, &end].concat()).is_empty());
}

#[test]
fn one_word_for_all_is_no_missing_barrier_first() {
    let found = lined(&line(7, "st.shared.u32 [%r2], %r1;"));
    assert!(found.len() == 1 && found[0].fix.starts_with("let one warp alone write"), "{found:#?}");
    let found = lined(&line(7, "ld.shared.u32 %r6, [%r2];\nadd.u32 %r6, %r6, %r1;\nst.shared.u32 [%r2], %r6;"));
    assert!(found.iter().any(|f| f.fix.starts_with("an atomic operation")), "{found:#?}");
}

#[test]
fn a_function_written_out_in_its_caller_names_the_call() {
    let inlined = |text: String| text.replace(" 1\n", " 1, function_name $L__info_string0, inlined_at 1 40 1\n");
    let found = lined(&[inlined(store(5, 0)), load(48, 0)].concat());
    let [only] = &found[..] else { panic!("{found:#?}") };
    assert!(only.to_string().contains("k.cu:5, called from k.cu:40"), "{only}");
    assert!(only.fix.ends_with("after line 40 and before line 48"), "{only}");
}

#[test]
fn lanes_of_one_warp_want_no_statement_of_their_own_beside_a_barrier() {
    // Each thread reads its neighbour's word: of its own warp, and at the end of a warp of the next one.
    let near = "add.u32 %r8, %r1, 1;\nand.b32 %r8, %r8, 63;\nshl.b32 %r8, %r8, 2;\nadd.s32 %r8, %r2, %r8;\n";
    let read = line(8, "ld.shared.u32 %r6, [%r8];");
    let found = lined(&[near, &store(5, 0), &read].concat());
    let [only] = &found[..] else { panic!("{found:#?}") };
    assert!(only.rule == gdn2_vm::Rule::SharedRace && only.fix.ends_with("after line 5 and before line 8"), "{only}");
    assert!(lined(&[near, &store(5, 0), BARRIER, &read].concat()).is_empty());
}
