//! What the bars of random draws let through and what they stop: many draws of right kernels, none of which may fail, and
//! errors planted in the CUDA text of right ones, each of which must.

mod planted;

pub use planted::{PLANTED, Planted};

use crate::seed::mixed;
use crate::sweep::ptx;
use gdn2_codegen::abi::Tensor;
use gdn2_codegen::arch::Arch;
use gdn2_codegen::bind;
use gdn2_codegen::kernel::{Kernel, Pass};
use gdn2_codegen::render;
use gdn2_codegen::schedule::Schedule;
use gdn2_dsl::bars::{Verdict, bar};
use gdn2_dsl::{Combination, Draw, Dtype, Grain, Rule};
use gdn2_runtime::artifact::Artifact;
use gdn2_runtime::device::Device;
use gdn2_runtime::drawn::bars;
use gdn2_runtime::engine::{Run, Training, execute, gradients};
use gdn2_runtime::judge::judge;
use gdn2_runtime::nvrtc::Nvrtc;
use gdn2_runtime::problem::Problem;
use gdn2_runtime::tensors::Case;

/// One tensor of one draw.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which.
    pub tensor: Tensor,
    /// What its bar said.
    pub verdict: Verdict,
    /// The bar in usual bars.
    pub bar: f64,
    /// The error in usual bars.
    pub error: f64,
}

/// A pass compiled for a rule, ready for any number of draws.
#[derive(Debug)]
pub struct Ready {
    kernels: Vec<Artifact>,
}

/// The shipped rules that there are kernels for, and ten mixes of gates that none of them has.
///
/// # Errors
/// A rule file that cannot be read.
pub fn rules() -> Result<Vec<Rule>, String> {
    use Grain::{Channel, None as No, Scalar};
    let mut rules = crate::rules_with_kernels();
    if rules.is_empty() {
        return Err("no shipped rule can be read".to_owned());
    }
    let mixes = [
        (Scalar, Channel, Some(Scalar)),
        (Scalar, Channel, Some(Channel)),
        (Scalar, Scalar, Some(Channel)),
        (Scalar, No, Some(Channel)),
        (Channel, No, Some(Scalar)),
        (Channel, Channel, Some(No)),
        (Channel, Scalar, Some(Channel)),
        (No, Channel, Some(Scalar)),
        (No, Scalar, Some(Channel)),
        (No, No, Some(Channel)),
    ];
    for (decay, erase, write) in mixes {
        let rule = Combination { decay, erase, write }.rule(64, 64, Dtype::Bf16);
        rules.push(rule.map_err(|error| error.to_string())?);
    }
    Ok(rules)
}

impl Ready {
    /// Compiles a pass with a schedule over the built-in one, its text changed first.
    ///
    /// # Errors
    /// An illegal schedule, or a text that does not compile.
    pub fn new(
        nvrtc: &Nvrtc,
        rule: &Rule,
        arch: Arch,
        pass: Pass,
        schedule: &str,
        change: impl Fn(&str) -> String,
    ) -> Result<Ready, String> {
        let kernel = |pass: Pass, text: &str| bound(rule, arch, pass, text);
        let last = kernel(pass, schedule)?;
        let forward = last.keeping_forward().map(|keeping| kernel(Pass::ForwardForBackward, &keeping)).transpose()?;
        let mut kernels = Vec::new();
        if let Some(forward) = forward {
            let text = ptx(nvrtc, &forward, &render(&forward).text)?;
            kernels.push(Artifact::from_ptx(forward, text));
        }
        let text = ptx(nvrtc, &last, &change(&render(&last).text))?;
        kernels.push(Artifact::from_ptx(last, text));
        Ok(Ready { kernels })
    }

    /// Runs a draw on the virtual machine and judges every tensor.
    ///
    /// # Errors
    /// A kernel that does not run, or a result that is missing.
    pub fn judge(&self, draw: &Draw) -> Result<Vec<Seen>, String> {
        let Some(last) = self.kernels.last() else { return Err("no kernel".to_owned()) };
        let Kernel { rule, pass, schedule, arch, .. } = &last.kernel;
        let case = Case::drawn(rule, draw, *pass == Pass::Backward).map_err(|error| error.to_string())?;
        let problem = Problem::new(rule, &case).map_err(|error| error.to_string())?;
        let device = Device::vm();
        let run = Run { arch: Some(*arch), tokens_per_launch: 4, ..Run::new(rule, *pass, &device) };
        let outcome = match (pass, self.kernels.as_slice()) {
            (Pass::Backward, [forward, backward]) => {
                let training = Training { forward: Some(forward.clone()), backward: backward.clone() };
                gradients(&run, Some(&training), &problem)
            }
            (Pass::Backward, _) => gradients(&run, Some(&Training { forward: None, backward: last.clone() }), &problem),
            _ => execute(&run, Some(last), &problem),
        };
        let outcome = outcome.map_err(|error| error.to_string())?;
        let mut seen = Vec::new();
        for (tensor, limit) in bars(rule, draw, &case, schedule).map_err(|error| error.to_string())? {
            let usual = bar(tensor.name()).unwrap_or(f64::NAN);
            if let Some(judged) = judge(tensor, &outcome, &case, limit).map_err(|error| error.to_string())? {
                let error = judged.deviation.relative / usual;
                seen.push(Seen { tensor, verdict: judged.verdict, bar: limit.bar / usual, error });
            }
        }
        Ok(seen)
    }
}

/// The kernel of a pass with a schedule over the built-in one.
fn bound(rule: &Rule, arch: Arch, pass: Pass, schedule: &str) -> Result<Kernel, String> {
    let schedule = Schedule::from_overrides(rule, pass, arch, schedule).map_err(|error| error.to_string())?;
    bind(rule, pass, schedule, arch).map_err(|illegal| illegal.to_string())
}

/// The kernel and the draw of a number: a rule, head dims of every class, pass, architecture, chunk and one of the telling
/// draws.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The rule with its dims.
    pub rule: Rule,
    /// Forward, backward or decode.
    pub pass: Pass,
    /// The architecture.
    pub arch: Arch,
    /// Overrides of the built-in schedule.
    pub schedule: &'static str,
}

impl Choice {
    /// The choice of a number; `None` where the rules of `rules()` are none.
    ///
    /// # Errors
    /// Dims that the language does not have.
    pub fn of(rules: &[Rule], seed: u64, number: u64) -> Result<Choice, String> {
        let pick = |salt: u64, of: usize| (mixed(mixed(seed, number), salt) % of.max(1) as u64) as usize;
        // Rules in turn, so that each has its share; three in four values are few, for they only repeat one another.
        let rule = rules.get(number as usize % rules.len().max(1)).ok_or("no rules")?;
        let (keys, values) =
            (1 + pick(1, 16) as u32, 1 + if pick(2, 4) == 0 { pick(3, 32) } else { pick(3, 8) } as u32);
        let rule = rule.with_dims(16 * keys, 16 * values).map_err(|error| error.to_string())?;
        let rule = match pick(7, 4) {
            0 => rule.with_dtype(Dtype::F16).map_err(|error| error.to_string())?,
            _ => rule,
        };
        let pass = [Pass::Forward, Pass::Backward, Pass::Decode][pick(4, 3)];
        let schedule = match pass {
            Pass::Decode => "",
            _ => ["", "chunk=16", "chunk=32", "chunk=64"][pick(5, 4)],
        };
        let arch = Arch::ALL[pick(6, Arch::ALL.len())];
        // Not every chunk fits every architecture; the built-in schedule does.
        let fits = |schedule: &str| {
            bound(&rule, arch, pass, schedule).is_ok_and(|kernel| {
                let keeping = kernel.keeping_forward();
                keeping.is_none_or(|keeping| bound(&rule, arch, Pass::ForwardForBackward, &keeping).is_ok())
            })
        };
        let schedule = if fits(schedule) { schedule } else { "" };
        Ok(Choice { rule, pass, arch, schedule })
    }
}
