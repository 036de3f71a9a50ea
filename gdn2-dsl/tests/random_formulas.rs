//! Formulas nobody wrote: random trees within the grammar are typed or refused; a value stays in its proved interval,
//! gradients agree with automatic differentiation forward, and logits up to ±10⁴ leave everything finite.
//!
//! The seed is printed; `GDN2_FORMULAS_SEED` repeats a run and `GDN2_FORMULAS` says how many trees it takes (2,000).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use gdn2_dsl::formula::Leaf;
use gdn2_dsl::prologue::GateOf;
use gdn2_dsl::{Rule, parse_file};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestError, TestRunner};

/// An expression as a program would build it; `text` brackets everything.
#[derive(Clone, Debug)]
enum Tree {
    Number(f64),
    Name(&'static str),
    Neg(Box<Tree>),
    Binary(char, Box<Tree>, Box<Tree>),
    Call(&'static str, Box<Tree>),
}

impl Tree {
    fn text(&self) -> String {
        match self {
            Tree::Number(number) => number.to_string(),
            Tree::Name(name) => (*name).to_owned(),
            Tree::Neg(a) => format!("-({})", a.text()),
            Tree::Binary(symbol, a, b) => format!("({}) {symbol} ({})", a.text(), b.text()),
            Tree::Call(function, a) => format!("{function}({})", a.text()),
        }
    }

    /// The value and its derivatives as the mathematics has them, forward, nothing saturating.
    fn dual(&self, at: &dyn Fn(&str) -> Dual) -> Dual {
        match self {
            Tree::Number(number) => Dual::constant(*number),
            Tree::Name(name) => at(name),
            Tree::Neg(a) => Dual::constant(0.0).sum(-1.0, a.dual(at)),
            Tree::Binary(symbol, a, b) => {
                let (a, b) = (a.dual(at), b.dual(at));
                match symbol {
                    '+' => a.sum(1.0, b),
                    '-' => a.sum(-1.0, b),
                    '*' => a.product(b),
                    _ => a.product(b.through(1.0 / b.value, -1.0 / (b.value * b.value))),
                }
            }
            Tree::Call(function, a) => {
                let a = a.dual(at);
                let (u, e) = (a.value, (-a.value.abs()).exp());
                let step = if u >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) };
                let slope = e / ((1.0 + e) * (1.0 + e));
                match *function {
                    "exp" => a.through(u.exp(), u.exp()),
                    "log" => a.through(u.ln(), 1.0 / u),
                    "softplus" => a.through(u.max(0.0) + e.ln_1p(), step),
                    "sigmoid" => a.through(step, slope),
                    "logsigmoid" => a.through(u.min(0.0) - e.ln_1p(), if u >= 0.0 { e } else { 1.0 } / (1.0 + e)),
                    "silu" => a.through(u * step, step + u * slope),
                    "tanh" => a.through(u.tanh(), 1.0 / (u.cosh() * u.cosh())),
                    other => panic!("{other}"),
                }
            }
        }
    }
}

/// A value with its derivatives by x, a_log and dt_bias, and how large the terms are that each was summed from.
#[derive(Clone, Copy, Debug)]
struct Dual {
    value: f64,
    by: [f64; 3],
    terms: [f64; 3],
    /// Something on the way was so large that saturation or rounding may show.
    large: bool,
}

impl Dual {
    fn new(value: f64, by: [f64; 3], terms: [f64; 3], large: bool) -> Dual {
        let beyond = |x: f64| x.is_nan() || x.abs() > 1e9;
        Dual { value, by, terms, large: large || beyond(value) || terms.into_iter().any(beyond) }
    }

    fn constant(value: f64) -> Dual {
        Dual::new(value, [0.0; 3], [0.0; 3], false)
    }

    fn variable(value: f64, index: usize) -> Dual {
        let by = std::array::from_fn(|at| f64::from(at == index));
        Dual::new(value, by, by, false)
    }

    fn sum(self, sign: f64, other: Dual) -> Dual {
        let by = std::array::from_fn(|at| self.by[at] + sign * other.by[at]);
        let terms = std::array::from_fn(|at| self.terms[at] + other.terms[at]);
        Dual::new(self.value + sign * other.value, by, terms, self.large || other.large)
    }

    fn product(self, other: Dual) -> Dual {
        let (a, b) = (self.value, other.value);
        let by = std::array::from_fn(|at| self.by[at] * b + other.by[at] * a);
        let terms = std::array::from_fn(|at| self.terms[at] * b.abs() + other.terms[at] * a.abs());
        Dual::new(a * b, by, terms, self.large || other.large)
    }

    fn through(self, value: f64, slope: f64) -> Dual {
        let (by, terms) = (self.by.map(|d| d * slope), self.terms.map(|d| d * slope.abs()));
        Dual::new(value, by, terms, self.large)
    }
}

fn trees() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        3 => Just(Tree::Name("x")),
        2 => Just(Tree::Name("a_log")),
        2 => Just(Tree::Name("dt_bias")),
        2 => prop_oneof![Just(0.0), Just(1.0), Just(2.0), Just(16.0), -8.0..8.0].prop_map(|x: f64| Tree::Number((x.abs() * 16.0).round() / 16.0)),
    ];
    leaf.prop_recursive(6, 64, 2, |inner| {
        let functions = prop::sample::select(vec!["exp", "log", "softplus", "sigmoid", "logsigmoid", "silu", "tanh"]);
        let symbols = prop::sample::select(vec!['+', '-', '*', '*', '/']);
        prop_oneof![
            1 => inner.clone().prop_map(|a| Tree::Neg(a.into())),
            4 => (symbols, inner.clone(), inner.clone()).prop_map(|(s, a, b)| Tree::Binary(s, a.into(), b.into())),
            4 => (functions, inner).prop_map(|(f, a)| Tree::Call(f, a.into())),
        ]
    })
}

/// Logits and parameters of one point: x, a_log, dt_bias.
fn points() -> impl Strategy<Value = Vec<[f64; 3]>> {
    let near = -4.0..4.0f64;
    let far = prop_oneof![Just(0.0), Just(1e4), Just(-1e4), Just(50.0), Just(-50.0), -1e4..1e4f64];
    let point = prop_oneof![
        3 => [near.clone(), near.clone(), near],
        1 => [far.clone(), far.clone(), far],
    ];
    prop::collection::vec(point, 6)
}

/// The tree as the erase gate of a rule; None where it is refused, with words.
fn rule(tree: &Tree) -> Result<Option<Rule>, TestCaseError> {
    // Parameters that the tree leaves out are read by the decay.
    let source = format!(
        "rule r {{ param a_log: head; param dt_bias: channel; decay: channel = -exp(a_log + dt_bias + x); \
         erase: channel = {}; write: none; key_dim: 16; value_dim: 16; dtype: bf16; }}",
        tree.text()
    );
    match parse_file(&source) {
        Ok(mut rules) => Ok(rules.pop()),
        Err(found) => {
            let words = found.mistakes.iter().all(|mistake| !mistake.in_words().is_empty());
            prop_assert!(words, "{found:?}");
            found.render("random.gdn2", &source, false);
            Ok(None)
        }
    }
}

fn at(point: [f64; 3]) -> impl Fn(Leaf) -> f64 {
    move |leaf| match leaf {
        Leaf::Logit => point[0],
        Leaf::Param(index) => point[usize::from(index) + 1],
        Leaf::Let(_) => f64::NAN,
    }
}

fn check(tree: &Tree, points: &[[f64; 3]], typed: &mut usize, compared: &mut usize) -> Result<(), TestCaseError> {
    let Some(rule) = rule(tree)? else { return Ok(()) };
    *typed += 1;
    let again = parse_file(&rule.to_string()).map_err(|found| TestCaseError::fail(found.to_string()))?;
    prop_assert_eq!(&again[0], &rule, "{}", rule);
    let formula = rule.prologue.gate(GateOf::Erase).unwrap();
    for point in points {
        let mut numbers = Vec::new();
        let evaluated = formula.evaluate(at(*point), &mut numbers);
        prop_assert!(evaluated.value().is_finite(), "{} at {point:?}", tree.text());
        let (value_here, range) = (evaluated.value(), formula.range());
        prop_assert!(range.contains(value_here), "{} is {value_here} at {point:?}, not in {range}", tree.text());
        prop_assert!(evaluated.partials().all(|(_, d)| d.is_finite()), "{} at {point:?}", tree.text());
        let exact = tree.dual(&|name| match name {
            "x" => Dual::variable(point[0], 0),
            "a_log" => Dual::variable(point[1], 1),
            _ => Dual::variable(point[2], 2),
        });
        if exact.large {
            continue;
        }
        let close = |got: f64, want: f64, size: f64| (got - want).abs() <= 1e-6 * (1.0 + size);
        let here = tree.text();
        prop_assert!(close(value_here, exact.value, exact.value.abs()), "{here} at {point:?}: {value_here}, {exact:?}");
        for (leaf, partial) in evaluated.partials() {
            let index = match leaf {
                Leaf::Logit => 0,
                Leaf::Param(index) => usize::from(index) + 1,
                Leaf::Let(_) => continue,
            };
            *compared += 1;
            let (want, terms) = (exact.by[index], exact.terms[index]);
            prop_assert!(close(partial, want, terms), "{here} by {index} at {point:?}: {partial}, {exact:?}");
        }
    }
    Ok(())
}

#[test]
fn random_trees_are_typed_or_refused_and_what_they_say_is_true() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = number("GDN2_FORMULAS_SEED").unwrap_or(clock);
    let cases = number("GDN2_FORMULAS").unwrap_or(2_000) as u32;
    println!("seed {seed}: GDN2_FORMULAS_SEED={seed} cargo test --release -p gdn2-dsl --test random_formulas");
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        rng_algorithm: RngAlgorithm::ChaCha,
        failure_persistence: None,
        ..Config::default()
    };
    let (mut typed, mut compared) = (0, 0);
    let counts = (std::cell::RefCell::new(&mut typed), std::cell::RefCell::new(&mut compared));
    let result = TestRunner::new(config).run(&(trees(), points()), |(tree, points)| {
        check(&tree, &points, &mut counts.0.borrow_mut(), &mut counts.1.borrow_mut())
    });
    if let Err(TestError::Fail(reason, (tree, points))) = &result {
        panic!("seed {seed}: {reason}\n{}\n{points:?}", tree.text());
    }
    result.unwrap();
    println!("{cases} trees, {typed} typed, {compared} derivatives compared");
    assert!(typed * 5 > cases as usize && compared > typed, "{typed} of {cases} typed, {compared} compared");
}
