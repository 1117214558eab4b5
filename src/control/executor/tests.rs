//! The control loop with shards that only note what they are told.

use std::io::Write;
use std::sync::Arc;

use super::*;
use crate::control::fake::{DRAIN, FakeShard, Told, loaded, logged, prepare, source};
use crate::control::report::tests::refused;
use crate::limits::SHARD_PATIENCE;

fn clock() -> Clock {
    Clock::manual(Duration::from_secs(1))
}

fn keeper(shards: &[&FakeShard]) -> Keeper<'static, FakeShard> {
    let ports = shards.iter().map(|shard| (*shard).clone());
    let source = source(|| Ok(loaded()));
    let reloader = Reloader::new(source, prepare(shards.len()), clock());
    Keeper::new(ports, reloader, clock())
}

impl Keeper<'_, FakeShard> {
    /// Ticks until `is_so`.
    #[track_caller]
    fn until(&mut self, is_so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !is_so(self) {
            assert!(Instant::now() < end, "it takes too long");
            assert_eq!(self.tick(clock().now()), None);
            std::thread::yield_now();
        }
    }
}

#[test]
fn the_first_signal_drains_through_the_executor() {
    let (signals, [mut end, mut reload]) = Signals::stand_in();
    let control = Control::with_signals(signals, clock()).unwrap();
    let shards = [FakeShard::ending_on(DRAIN), FakeShard::ending_on(DRAIN)];
    reload.write_all(b"x").unwrap();
    end.write_all(b"x").unwrap();
    let source = source(|| Ok(loaded()));
    assert_eq!(
        control.run(shards.clone(), source, prepare(2), || Ok(())),
        Ending::Drained
    );
    for shard in &shards {
        assert_eq!(shard.commands.borrow().last(), Some(&DRAIN));
    }
}

#[test]
fn shards_that_cannot_begin_are_told_to_end() {
    let (signals, _streams) = Signals::stand_in();
    let control = Control::with_signals(signals, clock()).unwrap();
    let shard = FakeShard::ending_on(Told::Stop);
    let source = source(|| Ok(loaded()));
    let begin = || Err("a socket cannot listen".to_owned());
    let ending = control.run([shard.clone()], source, prepare(1), begin);
    assert_eq!(ending, Ending::NotInControl);
    assert_eq!(*shard.commands.borrow(), [Told::Stop]);
}

#[test]
fn a_second_signal_ends_at_once() {
    let shard = FakeShard::ending_on(Told::Stop);
    let (mut keeper, now) = (keeper(&[&shard]), clock().now());
    keeper.take(Signal::End, now);
    assert_eq!(keeper.tick(now), None);
    keeper.take(Signal::End, now);
    assert_eq!(keeper.tick(now), Some(Ending::Stopped));
    assert_eq!(*shard.commands.borrow(), [DRAIN, Told::Stop]);
}

#[test]
fn the_first_signal_behind_another_word_ends_nothing_at_once() {
    let shard = FakeShard::default();
    let (mut keeper, now) = (keeper(&[&shard]), clock().now());
    keeper.leave(now);
    keeper.take(Signal::End, now);
    assert_eq!(keeper.tick(now), None);
    assert_eq!(*shard.commands.borrow(), [DRAIN]);
    keeper.take(Signal::End, now);
    assert_eq!(*shard.commands.borrow(), [DRAIN, Told::Stop]);
}

#[test]
fn a_shard_that_stands_still_is_told_of() {
    let (turns, stands, clock) = (FakeShard::default(), FakeShard::default(), clock());
    let reloader = Reloader::new(source(|| Ok(loaded())), prepare(2), clock.clone());
    let ports = [turns.clone(), stands.clone()];
    let mut keeper = Keeper::new(ports, reloader, clock.clone());
    let mut goes_on = |turning: &[&FakeShard]| {
        for shard in turning {
            shard.turns.set(shard.turns.get() + 1);
        }
        clock.advance(SHARD_PATIENCE / 2);
        assert_eq!(keeper.tick(clock.now()), None);
        let answer = keeper.liveness();
        (answer.status.as_u16(), answer.body)
    };
    assert_eq!(goes_on(&[&turns, &stands]).0, 200);
    assert_eq!(goes_on(&[&turns]).0, 200);
    let still = (503, "shard 1 stands still\n".to_owned());
    assert_eq!(goes_on(&[&turns]), still);
    assert_eq!(goes_on(&[&turns, &stands]).0, 200);
}

#[test]
fn notice_is_given_before_a_drain() {
    const NOTICE: Duration = Duration::from_secs(5);
    let (shard, clock) = (FakeShard::ending_on(DRAIN), clock());
    let mut source = source(|| Ok(loaded()));
    let snapshot = Arc::get_mut(&mut source.loaded.snapshot).unwrap();
    snapshot.drain.notice = NOTICE;
    let reloader = Reloader::new(source, prepare(1), clock.clone());
    let mut keeper = Keeper::new([shard.clone()], reloader, clock.clone());
    keeper.take(Signal::End, clock.now());
    clock.advance(NOTICE - Duration::from_millis(1));
    assert_eq!(keeper.tick(clock.now()), None);
    assert!(shard.commands.borrow().is_empty(), "it serves on");
    assert!(matches!(keeper.phase, Phase::Leaving { .. }));
    clock.advance(Duration::from_millis(1));
    assert_eq!(keeper.tick(clock.now()), None);
    assert_eq!(keeper.tick(clock.now()), Some(Ending::Drained));
    assert_eq!(*shard.commands.borrow(), [DRAIN]);
}

#[test]
fn a_command_that_finds_no_room_is_sent_again() {
    let shard = FakeShard::ending_on(DRAIN);
    shard.refuses.set(2);
    let (mut keeper, now) = (keeper(&[&shard]), clock().now());
    keeper.take(Signal::End, now);
    assert_eq!(keeper.tick(now), None);
    assert_eq!(keeper.tick(now), None);
    assert_eq!(keeper.tick(now), Some(Ending::Drained));
    assert_eq!(*shard.commands.borrow(), [DRAIN]);
}

#[test]
fn a_reload_signal_reaches_every_shard() {
    let shards = [FakeShard::default(), FakeShard::default()];
    let (mut keeper, now) = (keeper(&[&shards[0], &shards[1]]), clock().now());
    keeper.take(Signal::Reload, now);
    keeper.until(|_| shards.iter().all(|shard| shard.was_told(Told::Install(1))));
}

#[test]
fn a_reload_is_refused_while_draining() {
    let shard = FakeShard::default();
    let (mut keeper, now) = (keeper(&[&shard]), clock().now());
    keeper.take(Signal::Reload, now);
    assert_eq!(keeper.tick(now), None);
    assert!(!keeper.reloader.is_idle());
    let text = logged(|| keeper.take(Signal::End, now));
    assert!(text.contains("the reload is given up"), "{text}");
    let text = logged(|| keeper.take(Signal::Reload, now));
    assert!(text.contains("SIGHUP reloads nothing"), "{text}");
    assert_eq!(keeper.tick(now), None);
    assert!(keeper.reloader.is_idle());
    assert_eq!(*shard.commands.borrow(), [DRAIN]);
}

#[test]
fn a_drain_that_takes_too_long_is_cut_short_and_the_deaf_are_left_behind() {
    let (shard, clock) = (FakeShard::default(), clock());
    let mut keeper = keeper(&[&shard]);
    keeper.take(Signal::End, clock.now());
    clock.advance(Duration::from_secs(30));
    assert_eq!(keeper.tick(clock.now()), None);
    assert_eq!(
        *shard.commands.borrow(),
        [DRAIN],
        "the shard's own deadline comes first"
    );
    clock.advance(DRAIN_GRACE);
    assert_eq!(keeper.tick(clock.now()), None);
    assert_eq!(*shard.commands.borrow(), [DRAIN, Told::Stop]);
    clock.advance(STOP_PATIENCE);
    assert_eq!(keeper.tick(clock.now()), Some(Ending::Unresponsive));
}

#[test]
fn a_lost_shard_drains_the_others_and_is_told() {
    let (lost, other) = (FakeShard::default(), FakeShard::ending_on(DRAIN));
    let (mut keeper, now) = (keeper(&[&lost, &other]), clock().now());
    lost.ended.set(true);
    assert_eq!(keeper.tick(now), None);
    assert_eq!(*other.commands.borrow(), [DRAIN]);
    assert_eq!(keeper.tick(now), Some(Ending::ShardLost));
}

#[test]
fn refusals_that_were_left_out_are_told() {
    let shard = FakeShard::default();
    let mut keeper = keeper(&[&shard]);
    let rate = loaded().config.log.refusal_rate;
    logged(|| {
        for _ in 0..rate + 7 {
            crate::control::report::log(&refused(), &mut keeper.refusal_log, None);
        }
    });
    keeper.clock.advance(Duration::from_secs(10));
    let text = logged(|| assert_eq!(keeper.tick(clock().now()), None));
    assert!(text.contains("lines=7"), "{text}");
}

#[test]
fn a_small_locked_memory_limit_names_the_remedy() {
    let error = io::Error::other("MemLockLimit(65536/524288)");
    for error in [
        GlommioError::ReactorError(ReactorErrorKind::MemLockLimit(65_536, 524_288)),
        GlommioError::IoError(error),
    ] {
        let text = set_up_error(error).to_string();
        assert!(
            text.contains("65536 bytes") && text.contains("LimitMEMLOCK"),
            "{text}"
        );
    }
    let full = io::Error::from(rustix::io::Errno::NOMEM);
    for error in [io::Error::other(full.to_string()), full] {
        let text = set_up_error(GlommioError::IoError(error)).to_string();
        assert!(
            text.contains("of this user") && !text.contains("io_uring_disabled"),
            "{text}"
        );
    }
    let other = GlommioError::IoError(io::ErrorKind::PermissionDenied.into());
    assert!(
        set_up_error(other)
            .to_string()
            .contains("io_uring_disabled")
    );
}
