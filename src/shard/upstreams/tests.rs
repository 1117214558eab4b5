use super::*;
use crate::clock::Clock;
use crate::snapshot::UpstreamTreatment;

const SECOND: Duration = Duration::from_secs(1);

fn route(balance: Balance, slow_start: Option<Duration>) -> RouteTarget {
    RouteTarget {
        name: Arc::from("r"),
        upstreams: Vec::new(),
        balance,
        treatment: UpstreamTreatment {
            slow_start,
            ..UpstreamTreatment::default()
        },
        identity_rate: None,
    }
}

fn endpoints(ports: &[u16]) -> Vec<Endpoint> {
    let endpoints = ports.iter().map(|port| Endpoint {
        address: UpstreamAddress::Tcp(([127, 0, 0, 1], *port).into()),
        health: Arc::default(),
        figures: Arc::default(),
        connections_max: usize::MAX,
    });
    endpoints.collect()
}

fn clock() -> Clock {
    Clock::manual(SECOND)
}

fn group(balance: Balance, ports: &[u16]) -> Group {
    Group::new(&route(balance, None), endpoints(ports), None, clock().now())
}

fn port(upstream: &Upstream) -> u16 {
    match &*upstream.target {
        Target::Tcp(address) => address.port(),
        Target::Unix(_) => 0,
    }
}

fn taken(group: &Group, tried: &mut Tried, now: Instant) -> Option<Rc<Upstream>> {
    match group.choose(tried, now) {
        Choice::Upstream { upstream, .. } => Some(upstream),
        Choice::Full | Choice::Nothing => None,
    }
}

/// The port of the upstream chosen.
fn choose(group: &Group) -> Option<u16> {
    first(group, clock().now()).map(|upstream| port(&upstream))
}

/// The first that a connection tries.
fn first(group: &Group, now: Instant) -> Option<Rc<Upstream>> {
    taken(group, &mut Tried::default(), now)
}

/// Where the upstreams at these places were tried.
fn tried(group: &Group, places: &[usize]) -> Tried {
    let mut tried = Tried::default();
    let upstreams = group.upstreams.borrow();
    places.iter().for_each(|&at| tried.add(&upstreams[at]));
    tried
}

/// The ports of so many upstreams chosen at `now`.
fn chosen(group: &Group, count: usize, now: Instant) -> Vec<u16> {
    let chosen = (0..count).filter_map(|_| first(group, now));
    chosen.map(|upstream| port(&upstream)).collect()
}

fn eject(group: &Group, at: usize, now: Instant) {
    let upstream = Rc::clone(&group.upstreams.borrow()[at]);
    for _ in 0..3 {
        group.failed(&upstream, false, now);
    }
}

#[test]
fn round_robin_takes_turns() {
    let group = group(Balance::RoundRobin, &[10, 11, 12]);
    let chosen: Vec<_> = (0..6).filter_map(|_| choose(&group)).collect();
    assert_eq!(chosen, [10, 11, 12, 10, 11, 12]);
}

#[test]
fn least_connections_prefers_the_idle_and_lets_equals_take_turns() {
    let group = group(Balance::LeastConnections, &[10, 11, 12]);
    let chosen: Vec<_> = (0..3).filter_map(|_| choose(&group)).collect();
    assert_eq!(chosen, [10, 11, 12]);
    group.upstreams.borrow()[1].release();
    assert_eq!(choose(&group), Some(11));
}

#[test]
fn what_was_tried_is_left_out_until_nothing_is_left() {
    let (group, now) = (group(Balance::RoundRobin, &[10, 11]), clock().now());
    let mut tried = Tried::default();
    assert!(taken(&group, &mut tried, now).is_some());
    assert!(taken(&group, &mut tried, now).is_some());
    assert!(matches!(group.choose(&mut tried, now), Choice::Nothing));
    group.set(Vec::new(), now);
    assert!(matches!(
        group.choose(&mut Tried::default(), now),
        Choice::Nothing
    ));
}

#[test]
fn what_was_tried_is_known_at_another_place() {
    let now = clock().now();
    let [one, other, new] = [10, 11, 12].map(|port| endpoints(&[port]).remove(0));
    let route = route(Balance::RoundRobin, None);
    let group = Group::new(&route, vec![one.clone(), other.clone()], None, now);
    let mut tried = Tried::default();
    let port_of = |tried: &mut Tried| taken(&group, tried, now).map(|it| port(&it));
    assert_eq!(port_of(&mut tried), Some(10));
    // The name leads to others meanwhile.
    group.set(vec![new, one], now);
    assert_eq!(port_of(&mut tried), Some(12));
    assert_eq!(port_of(&mut tried), None);
}

#[test]
fn of_very_many_none_is_tried_twice() {
    let now = clock().now();
    let ports: Vec<u16> = (1000..1070).collect();
    let group = group(Balance::RoundRobin, &ports);
    for upstream in &group.upstreams.borrow()[..69] {
        upstream.health.set(false);
    }
    let mut tried = Tried::default();
    let all = [(); CONNECT_ATTEMPTS_MAX].map(|()| taken(&group, &mut tried, now));
    let all = all.map(|it| it.map(|it| port(&it)));
    assert_eq!(all, [Some(1069), Some(1000), Some(1001)]);
}

#[test]
fn what_another_left_behind_is_not_told_of_a_new_one() {
    let now = clock().now();
    let endpoints = endpoints(&[10, 11]);
    let group = Group::new(
        &route(Balance::RoundRobin, None),
        endpoints.clone(),
        None,
        now,
    );
    eject(&group, 0, now);
    let figures = &endpoints[0].figures;
    assert!(figures.is_ejected());
    group.set(vec![endpoints[1].clone()], now);
    group.set(endpoints.clone(), now);
    assert!(group.upstreams.borrow()[0].is_good(now) && !figures.is_ejected());
}

#[test]
fn an_upstream_that_stays_goes_on_as_it_was() {
    let now = clock().now();
    let stays = endpoints(&[10, 11]);
    let route = route(Balance::LeastConnections, None);
    let before = Group::new(&route, stays.clone(), None, now);
    assert_eq!(choose(&before), Some(10));
    let mut more = endpoints(&[12]);
    more.push(Endpoint {
        connections_max: 7,
        ..stays[0].clone()
    });
    let after = Group::new(&route, more, Some(&before), now);
    assert_eq!(choose(&after), Some(12), "10 has a connection");
    before.upstreams.borrow()[0].release();
    let known = Rc::clone(&after.upstreams.borrow()[1]);
    assert_eq!((known.open.get(), known.connections_max.get()), (0, 7));
    assert_eq!(
        (stays[0].figures.open(), stays[0].figures.connects()),
        (0, 1)
    );
}

#[test]
fn an_upstream_that_returns_has_the_connections_that_it_had() {
    let now = clock().now();
    let mut rotating = endpoints(&[10, 11]);
    rotating.iter_mut().for_each(|it| it.connections_max = 1);
    let route = route(Balance::RoundRobin, None);
    let group = Group::new(&route, vec![rotating[0].clone()], None, now);
    let stays = first(&group, now).expect("room");
    for _ in 0..3 {
        group.set(vec![rotating[1].clone()], now);
        assert_eq!(group.left.borrow().len(), 1);
        group.set(vec![rotating[0].clone()], now);
        assert!(matches!(
            group.choose(&mut Tried::default(), now),
            Choice::Full
        ));
    }
    // Another snapshot comes while it is away.
    group.set(Vec::new(), now);
    let after = Group::new(&route, vec![rotating[0].clone()], Some(&group), now);
    assert!(matches!(
        after.choose(&mut Tried::default(), now),
        Choice::Full
    ));
    assert_eq!(rotating[0].figures.open(), 1);
    stays.release();
    assert_eq!(chosen(&after, 2, now), [10]);
    after.upstreams.borrow()[0].release();
    // What nobody has is not kept.
    drop((group, stays));
    after.set(Vec::new(), now);
    assert!(after.left.borrow().is_empty());
    assert_eq!(Arc::strong_count(&rotating[0].figures), 1);
}

#[test]
fn upstreams_that_are_unwell_are_left_out_but_not_all() {
    let now = clock().now();
    let endpoints = endpoints(&[10, 11]);
    let health: Vec<_> = endpoints.iter().map(|it| Arc::clone(&it.health)).collect();
    for balance in [Balance::RoundRobin, Balance::LeastConnections] {
        let group = Group::new(&route(balance, None), endpoints.clone(), None, now);
        health[0].set(false);
        assert_eq!(chosen(&group, 3, now), [11, 11, 11]);
        health[1].set(false);
        let mut all = chosen(&group, 8, now);
        all.sort_unstable();
        assert!(all.starts_with(&[10]) && all.ends_with(&[11]), "{all:?}");
        for health in &health {
            health.set(true);
        }
    }
}

#[test]
fn where_the_good_ones_failed_the_others_are_tried() {
    let now = clock().now();
    let endpoints = endpoints(&[10, 11]);
    endpoints[0].health.set(false);
    let group = Group::new(&route(Balance::RoundRobin, None), endpoints, None, now);
    let mut tried = Tried::default();
    let ports = [(); 2].map(|()| taken(&group, &mut tried, now).map(|it| port(&it)));
    assert_eq!(ports, [Some(11), Some(10)]);
}

#[test]
fn an_upstream_is_left_out_after_failures_and_the_last_one_stays() {
    let (group, clock) = (group(Balance::RoundRobin, &[10, 11]), clock());
    eject(&group, 0, clock.now());
    assert_eq!(chosen(&group, 3, clock.now()), [11, 11, 11]);
    eject(&group, 1, clock.now());
    assert_eq!(chosen(&group, 2, clock.now()), [11, 11], "the last one");
    let figures = Arc::clone(&group.upstreams.borrow()[0].figures);
    assert_eq!((figures.failures(), figures.ejections()), (3, 1));
    assert!(figures.is_ejected());
    clock.advance(5 * SECOND);
    let probe = chosen(&group, 3, clock.now());
    assert_eq!(probe.iter().filter(|&&port| port == 10).count(), 1);
    group.upstreams.borrow()[0].answered(clock.now());
    assert!(!figures.is_ejected());
    assert!(chosen(&group, 2, clock.now()).contains(&10));
}

#[test]
fn only_the_connection_that_finds_out_is_given_up_for_another_to() {
    let (group, clock) = (group(Balance::RoundRobin, &[10, 11]), clock());
    eject(&group, 0, clock.now());
    clock.advance(5 * SECOND);
    let out = Rc::clone(&group.upstreams.borrow()[0]);
    let chosen = group.choose(&mut tried(&group, &[1]), clock.now());
    assert!(matches!(chosen, Choice::Upstream { is_probe: true, .. }));
    let other = group.choose(&mut tried(&group, &[1]), clock.now());
    assert!(matches!(
        other,
        Choice::Upstream {
            is_probe: false,
            ..
        }
    ));
    out.abandoned(false);
    assert!(!out.is_good(clock.now()));
    out.abandoned(true);
    assert!(out.is_good(clock.now()));
}

#[test]
fn a_health_check_brings_back_what_failed() {
    let (group, now) = (group(Balance::RoundRobin, &[10, 11]), clock().now());
    eject(&group, 0, now);
    let upstream = Rc::clone(&group.upstreams.borrow()[0]);
    upstream.health.set(false);
    upstream.health.set(true);
    assert!(upstream.is_good(now) && !upstream.figures.is_ejected());
}

#[test]
fn the_full_are_passed_over_and_told_from_the_failed() {
    let now = clock().now();
    let mut endpoints = endpoints(&[10, 11]);
    endpoints.iter_mut().for_each(|it| it.connections_max = 2);
    let route = route(Balance::RoundRobin, None);
    let group = Group::new(&route, endpoints.clone(), None, now);
    assert_eq!(chosen(&group, 9, now), [10, 11, 10, 11]);
    assert!(matches!(
        group.choose(&mut Tried::default(), now),
        Choice::Full
    ));
    assert!(matches!(
        group.choose(&mut tried(&group, &[0, 1]), now),
        Choice::Nothing
    ));
    // One that is unwell takes nothing over from one that is full.
    endpoints[1].health.set(false);
    group.upstreams.borrow()[1].release();
    assert!(matches!(
        group.choose(&mut Tried::default(), now),
        Choice::Full
    ));
    group.upstreams.borrow()[0].release();
    assert_eq!(chosen(&group, 9, now), [10]);
}

/// Of so many connections, those that go to the upstream that came back.
fn to_newcomer(balance: Balance, age: Duration, count: usize) -> usize {
    let clock = clock();
    let route = route(balance, Some(16 * SECOND));
    let known = endpoints(&[10]);
    let before = Group::new(&route, known.clone(), None, clock.now());
    let group = Group::new(
        &route,
        [known, endpoints(&[11])].concat(),
        Some(&before),
        clock.now(),
    );
    clock.advance(age);
    let ports = chosen(&group, count, clock.now());
    ports.iter().filter(|&&port| port == 11).count()
}

#[test]
fn a_newcomer_gets_a_share_that_grows() {
    for balance in [Balance::RoundRobin, Balance::LeastConnections] {
        let counts = [0, 4, 8, 16, 99].map(|age| to_newcomer(balance, age * SECOND, 1000));
        let expected = match balance {
            // Every so many turns of its own are taken: of 16 turns one, then of 4, of 2.
            Balance::RoundRobin => [58, 200, 333, 500, 500],
            Balance::LeastConnections => [58, 200, 333, 500, 500],
        };
        for (count, expected) in counts.into_iter().zip(expected) {
            assert!(count.abs_diff(expected) <= 2, "{balance:?}: {counts:?}");
        }
    }
}

#[test]
fn newcomers_alone_take_turns() {
    let clock = clock();
    let route = route(Balance::RoundRobin, Some(16 * SECOND));
    let before = Group::new(&route, Vec::new(), None, clock.now());
    let group = Group::new(&route, endpoints(&[10, 11]), Some(&before), clock.now());
    let ports = chosen(&group, 100, clock.now());
    assert_eq!(ports.iter().filter(|&&port| port == 10).count(), 50);
}
