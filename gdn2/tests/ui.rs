//! Wrong programs and what the compiler says about them. `TRYBUILD=overwrite` rewrites the expected messages.

#[test]
fn wrong_programs_are_told_what_is_wrong() {
    let programs = trybuild::TestCases::new();
    programs.compile_fail("tests/ui/*.rs");
}
