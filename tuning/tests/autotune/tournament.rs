//! What is adopted and what is not, on hosts whose truth is known.

use ringgate_tune::autotune::report::Report;
use ringgate_tune::autotune::tournament::{Gain, Keep, Outcome, Verdict, blocks_max, run};
use ringgate_tune::autotune::{Block, Failure, Measure, PRESENT};
use ringgate_tune::random::Random;

/// What a layout truly is.
#[derive(Clone, Copy)]
pub struct Truth {
    rate: f64,
    cpu: f64,
    /// The part of its blocks in which the thresholds hold.
    holds: f64,
}

pub const SAME: Truth = Truth {
    rate: 1.0,
    cpu: 1.0,
    holds: 1.0,
};

/// A host with layouts, noise and drift.
pub struct Fake {
    pub truths: Vec<Truth>,
    pub noise: f64,
    /// By which part of itself the host gets faster from block to block.
    drift: f64,
    random: Random,
    pub blocks: usize,
    /// A layout that does not start.
    broken: Option<usize>,
    /// One block in so many, in which the generator is the limit.
    limited_each: Option<usize>,
}

impl Fake {
    pub fn new(truths: Vec<Truth>, seed: u64) -> Self {
        Self {
            truths,
            noise: 0.03,
            drift: 0.0,
            random: Random::new(seed),
            blocks: 0,
            broken: None,
            limited_each: None,
        }
    }

    /// Twelve candidates that are the present layout.
    pub fn equal(seed: u64) -> Self {
        Self::new(vec![SAME; 13], seed)
    }

    fn run(&mut self) -> Outcome {
        let candidates = self.truths.len() - 1;
        run(self, candidates, 1, &mut |_| {})
    }
}

impl Measure for Fake {
    fn block(&mut self, candidate: usize) -> Result<Block, Failure> {
        self.blocks += 1;
        if self.broken == Some(candidate) {
            return Err(Failure::Candidate("it does not start".to_owned()));
        }
        let truth = self.truths[candidate];
        let speed = (1.0 + self.drift).powi(i32::try_from(self.blocks).unwrap());
        let mut noisy = |value: f64| value * (self.noise * self.random.normal()).exp();
        let rate = noisy(truth.rate * speed);
        let cpu = noisy(truth.cpu / speed);
        Ok(Block {
            confirmed_per_s: 5_000.0 * rate,
            p99_us: Some(2_000.0 / rate),
            server_cpu_us_per_unit: Some(360.0 * cpu),
            held: self.random.unit() < truth.holds,
            limited: self
                .limited_each
                .is_some_and(|each| self.blocks.is_multiple_of(each)),
        })
    }
}

fn text(outcome: &Outcome) -> String {
    let names: Vec<String> = (0..13).map(|at| format!("layout-{at}")).collect();
    let names = &names;
    Report { names, outcome }.to_string()
}

fn keeps(outcome: &Outcome) -> Option<Keep> {
    match outcome.verdict {
        Verdict::Keep { reason, .. } => Some(reason),
        _ => None,
    }
}

#[test]
fn one_that_is_better_by_8_percent_is_found_and_adopted() {
    const SEEDS: u64 = 200;
    let mut adopted = 0;
    for seed in 0..SEEDS {
        let mut host = Fake::equal(seed);
        host.truths[5].rate = 1.08;
        match host.run().verdict {
            Verdict::Adopt { candidate, gain } => {
                assert_eq!((candidate, gain), (5, Gain::Rate), "seed {seed}");
                adopted += 1;
            }
            Verdict::Keep { .. } => {}
            Verdict::Stopped(reason) => panic!("seed {seed}: {reason}"),
        }
    }
    assert!(adopted * 10 >= SEEDS * 9, "{adopted} of {SEEDS}");
}

#[test]
fn noise_alone_is_kept_out_more_often_than_95_percent_promise() {
    const SEEDS: u64 = 400;
    let adopts = |seed| matches!(Fake::equal(seed).run().verdict, Verdict::Adopt { .. });
    let false_ones = (0..SEEDS).filter(|seed| adopts(*seed)).count();
    println!("{false_ones} of {SEEDS} adopted falsely");
    assert!(false_ones * 20 <= 400, "{false_ones} of {SEEDS}");
}

#[test]
fn keeping_says_noise_the_best_and_how_many_blocks_more() {
    let outcome = Fake::equal(1).run();
    assert_eq!(keeps(&outcome), Some(Keep::WithinNoise));
    let text = text(&outcome);
    let verdict = text.lines().last().unwrap();
    assert!(
        verdict.starts_with("keep what you have: the best was layout-"),
        "{text}"
    );
    for part in [
        "noise is ±",
        "confirmed a second",
        " to ",
        "an effect of 2 % would take",
    ] {
        assert!(verdict.contains(part), "{part} in {verdict}");
    }
    assert_eq!(
        outcome.rounds.len(),
        4,
        "twelve, six, three, and one confirmed"
    );
    assert_eq!(
        text.lines().filter(|line| line.ends_with('*')).count(),
        6 + 3 + 1
    );
}

#[test]
fn a_better_rate_that_misses_the_thresholds_is_not_adopted() {
    for holds in [0.0, 0.5] {
        let mut host = Fake::new(vec![SAME; 2], 3);
        host.truths[1] = Truth {
            rate: 1.3,
            cpu: 0.7,
            holds,
        };
        let outcome = host.run();
        assert_eq!(keeps(&outcome), Some(Keep::ThresholdsMissed), "{holds}");
    }
}

#[test]
fn a_better_rate_is_not_adopted_where_both_miss_the_thresholds() {
    let mut host = Fake::new(vec![SAME; 2], 4);
    host.truths[0].holds = 0.0;
    host.truths[1] = Truth {
        rate: 1.3,
        cpu: 0.7,
        holds: 0.0,
    };
    assert_eq!(keeps(&host.run()), Some(Keep::ThresholdsMissed));
}

#[test]
fn thresholds_held_only_by_the_candidate_are_a_gain() {
    let mut host = Fake::equal(5);
    for truth in &mut host.truths {
        truth.holds = 0.1;
    }
    host.truths[7].holds = 1.0;
    let outcome = host.run();
    let expected = Verdict::Adopt {
        candidate: 7,
        gain: Gain::Thresholds,
    };
    assert_eq!(outcome.verdict, expected, "{}", text(&outcome));
}

#[test]
fn cheaper_at_the_same_rate_is_adopted() {
    const SEEDS: u64 = 100;
    let wins = |seed: &u64| {
        let mut host = Fake::equal(*seed);
        host.truths[9].cpu = 0.9;
        let expected = Verdict::Adopt {
            candidate: 9,
            gain: Gain::Cpu,
        };
        host.run().verdict == expected
    };
    let won = (0..SEEDS).filter(wins).count();
    assert!(won >= 80, "{won} of {SEEDS}");
}

#[test]
fn cheaper_but_slower_is_not_adopted() {
    let mut host = Fake::new(vec![SAME; 2], 6);
    host.truths[1] = Truth {
        rate: 0.85,
        cpu: 0.8,
        holds: 1.0,
    };
    assert_eq!(keeps(&host.run()), Some(Keep::RateLost));
}

#[test]
fn a_drift_of_the_host_makes_no_winner() {
    const SEEDS: u64 = 200;
    for drift in [0.004, -0.004] {
        let adopts = |seed: &u64| {
            let mut host = Fake::equal(*seed);
            host.drift = drift;
            matches!(host.run().verdict, Verdict::Adopt { .. })
        };
        let false_ones = (0..SEEDS).filter(adopts).count();
        assert!(false_ones * 20 <= 200, "{false_ones} of {SEEDS}");
    }
}

#[test]
fn a_drift_alone_has_no_effect_at_all() {
    // Without noise only the drift is left; in the order ABAB it would be an effect of 2 %.
    let mut host = Fake::new(vec![SAME; 2], 1);
    (host.noise, host.drift) = (0.0, 0.01);
    let outcome = host.run();
    let rate = outcome.rounds[0].lines[0].rate.unwrap();
    assert!(rate.reach() < 1e-9, "{rate:?}");
}

/// A host that is another one from some block on.
struct Changing {
    host: Fake,
    at: usize,
    then: fn(&mut Fake),
}

impl Measure for Changing {
    fn block(&mut self, candidate: usize) -> Result<Block, Failure> {
        if self.host.blocks == self.at {
            (self.then)(&mut self.host);
        }
        self.host.block(candidate)
    }
}

#[test]
fn luck_in_the_rounds_counts_for_nothing_in_the_confirmation() {
    let mut host = Fake::equal(15);
    host.truths[3].rate = 1.5;
    let rounds = blocks_max(12, 1) - 48;
    let mut changing = Changing {
        host,
        at: rounds,
        then: |host| host.truths[3].rate = 1.0,
    };
    let outcome = run(&mut changing, 12, 1, &mut |_| {});
    assert_eq!(
        keeps(&outcome),
        Some(Keep::WithinNoise),
        "{}",
        text(&outcome)
    );
    assert_eq!(outcome.rounds[3].lines[0].candidate, 3);
    assert_eq!(outcome.rounds[3].lines[0].blocks, 24);
}

#[test]
fn an_effect_inside_the_noise_is_not_adopted_however_sure_it_is() {
    let mut host = Fake::new(vec![SAME; 2], 16);
    (host.truths[1].rate, host.truths[1].cpu) = (1.02, 0.98);
    host.noise = 0.08;
    let mut changing = Changing {
        host,
        at: 32,
        then: |host| host.noise = 0.001,
    };
    let outcome = run(&mut changing, 1, 1, &mut |_| {});
    let rate = outcome.rounds[0].lines[0].rate.unwrap();
    assert!(rate.low > 0.015, "{rate:?}");
    assert_eq!(
        keeps(&outcome),
        Some(Keep::WithinNoise),
        "{}",
        text(&outcome)
    );
}

#[test]
fn a_candidate_that_does_not_start_is_out_and_named() {
    let mut host = Fake::equal(8);
    host.broken = Some(4);
    let outcome = host.run();
    assert_eq!(outcome.failed, [(4, "it does not start".to_owned())]);
    assert!(
        outcome.rounds[0]
            .lines
            .iter()
            .all(|line| line.candidate != 4)
    );
    assert!(text(&outcome).contains("layout-4 is out: it does not start"));
}

#[test]
fn candidates_that_all_fail_leave_what_is_there() {
    let mut host = Fake::new(vec![SAME; 2], 8);
    host.broken = Some(1);
    host.noise = 0.002;
    let outcome = host.run();
    assert_eq!(keeps(&outcome), Some(Keep::NoCandidate));
    let text = text(&outcome);
    assert!(!text.contains("would have been seen"), "{text}");
}

#[test]
fn a_present_layout_that_does_not_start_ends_it() {
    let mut host = Fake::equal(8);
    host.broken = Some(PRESENT);
    let expected = Verdict::Stopped("the present layout: it does not start".to_owned());
    assert_eq!(host.run().verdict, expected);
    assert_eq!(host.blocks, 1);
}

#[test]
fn noise_in_which_nothing_can_be_seen_is_told() {
    let mut host = Fake::equal(9);
    host.noise = 0.5;
    host.truths[5].rate = 1.08;
    let outcome = host.run();
    assert_eq!(keeps(&outcome), Some(Keep::WithinNoise));
    assert!(text(&outcome).contains("so wide that hardly any layout could be told from another"));
}

#[test]
fn blocks_at_the_generators_limit_count_for_nothing() {
    let mut host = Fake::equal(10);
    host.limited_each = Some(3);
    let outcome = host.run();
    assert_eq!(keeps(&outcome), Some(Keep::GeneratorLimit));
    assert!(text(&outcome).contains("the generator was the limit"));
    assert_eq!(host.blocks, 32, "nothing to learn: ends after A against A");
    let mut host = Fake::new(vec![SAME; 2], 11);
    host.limited_each = Some(16);
    host.truths[1].rate = 1.2;
    let outcome = host.run();
    let line = &outcome.rounds[0].lines[0];
    assert_eq!((line.limited, line.blocks), (3, 18), "{line:?}");
    assert!(matches!(
        outcome.verdict,
        Verdict::Adopt { candidate: 1, .. }
    ));
}

#[test]
fn a_block_without_a_confirmed_unit_is_a_failure() {
    let mut host = Fake::new(vec![SAME; 2], 12);
    host.truths[1].rate = 0.0;
    let outcome = host.run();
    assert_eq!(outcome.failed, [(1, "nothing was confirmed".to_owned())]);
}

#[test]
fn blocks_are_as_many_as_announced_and_interleaved() {
    for candidates in [0, 1, 2, 3, 12] {
        let mut host = Fake::new(vec![SAME; candidates + 1], 13);
        run(&mut host, candidates, 2, &mut |_| {});
        assert_eq!(host.blocks, blocks_max(candidates, 2), "{candidates}");
    }
    // Every candidate's block has the present layout's within two blocks.
    struct Order(Fake, Vec<usize>);
    impl Measure for Order {
        fn block(&mut self, candidate: usize) -> Result<Block, Failure> {
            self.1.push(candidate);
            self.0.block(candidate)
        }
    }
    let mut order = Order(Fake::equal(14), Vec::new());
    run(&mut order, 12, 1, &mut |_| {});
    for quad in order.1.chunks(4) {
        let present = quad.iter().filter(|block| **block == PRESENT).count();
        assert!(present == 4 || (present == 2 && quad[0] == quad[3] && quad[1] == quad[2]));
    }
}
