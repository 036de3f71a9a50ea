//! The `gdn2` command: arguments to calls of the crates beneath, results to tables and files.

mod asked;
mod bench;
mod cache;
mod case;
mod check;
mod compiler;
mod completions;
mod conformance;
mod demo;
mod devices;
mod drawn;
mod emit;
mod error;
mod floor;
mod gpu;
mod gradcheck;
mod grid;
mod hardware_check;
mod kernels;
mod launch_file;
mod micro;
mod predict;
mod prepare;
mod profile;
mod progress;
mod read;
mod records;
mod referee;
mod report;
mod rows;
mod run;
mod select;
mod shape;
mod target;
mod terminal;
mod toolchain;
mod tune;
mod tuned;
mod verify;
mod vm;
mod write;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use std::process::ExitCode;

use error::CliError;

/// A kernel compiler for delta-rule linear attention.
///
/// A rule file says which gates a recurrence has. `gdn2 check` reads it back to you, `gdn2 emit` prints the CUDA made
/// for it, `gdn2 run` and `gdn2 verify` execute that on a GPU or, without one, on a virtual machine that runs the very
/// PTX a GPU would load.
///
/// In a clone of the repository, start with: gdn2 demo
#[derive(Parser)]
#[command(name = "gdn2", version, arg_required_else_help = true, max_term_width = 100, after_help = AFTER)]
struct Cli {
    #[command(flatten)]
    terminal: terminal::Flags,
    #[command(subcommand)]
    command: Command,
}

/// What holds for every command.
const AFTER: &str = "A file named - is standard input or standard output.

Exit codes:
  0  all is well
  1  what was looked at is not well, or could not be read, made, run or written
  2  the arguments make no sense: unknown, out of range, or contradicting one another or the rule";

#[derive(Subcommand)]
enum Command {
    Demo(demo::Args),
    Check(check::Args),
    Emit(emit::Args),
    Case(case::Args),
    Run(run::Args),
    Verify(verify::Args),
    Bench(bench::Args),
    Predict(predict::Args),
    Vm(vm::Args),
    Conformance(conformance::Args),
    Micro(micro::Args),
    Gradcheck(gradcheck::Args),
    Profile(profile::Args),
    Tune(Box<tune::Args>),
    Report(report::Args),
    HardwareCheck(hardware_check::Args),
    Records(records::Args),
    Referee(referee::Args),
    Devices(devices::Args),
    Toolchain(toolchain::Args),
    Prepare(prepare::Args),
    Cache(cache::Args),
    Completions(completions::Args),
}

/// What a command that ran to its end has to say: all well, or that what it looked at is not.
pub(crate) enum Verdict {
    Good,
    Bad,
}

/// The arguments; where they make no sense, the end of the program.
fn parsed() -> Cli {
    let matches = Cli::command().color(terminal::asked(std::env::args_os().skip(1))).get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

fn main() -> ExitCode {
    let cli = parsed();
    cli.terminal.hold();
    let result = match cli.command {
        Command::Demo(args) => args.run(),
        Command::Check(args) => args.run(),
        Command::Emit(args) => args.run(),
        Command::Case(args) => args.run(),
        Command::Run(args) => args.run(),
        Command::Verify(args) => args.run(),
        Command::Bench(args) => args.run(),
        Command::Predict(args) => args.run(),
        Command::Vm(args) => args.run(),
        Command::Conformance(args) => args.run(),
        Command::Micro(args) => args.run(),
        Command::Gradcheck(args) => args.run(),
        Command::Profile(args) => args.run(),
        Command::Tune(args) => args.run(),
        Command::Report(args) => args.run(),
        Command::HardwareCheck(args) => args.run(),
        Command::Records(args) => args.run(),
        Command::Referee(args) => args.run(),
        Command::Devices(args) => args.run(),
        Command::Toolchain(args) => args.run(),
        Command::Prepare(args) => args.run(),
        Command::Cache(args) => args.run(),
        Command::Completions(args) => args.run(),
    };
    match result {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::Bad) => ExitCode::FAILURE,
        // The reader of our output left (`gdn2 … | head`): nothing to tell and nobody to tell it to.
        Err(CliError::Stdout(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.rendered());
            ExitCode::from(error.exit_code())
        }
    }
}
