//! Weather that changes: three machines whose paths become long, lossy, uneven, slow, one-way or dead, each for some seconds,
//! while all of them talk to each other.
//!
//! `ROAM_SEED` repeats the weather of a run, `ROAM_LONG` has it last for minutes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use trishula_wan::{Shape, inside};

use crate::flow::Route;
use crate::harness::PATIENCE;
use crate::place::{Family, World};

const TIME: Duration = Duration::from_secs(22);
const TIME_LONG: Duration = Duration::from_secs(180);
/// Between two messages of each of the six flows.
const PACE: Duration = Duration::from_millis(25);
/// Between two looks at whether a spell is over.
const STEP: Duration = Duration::from_millis(20);
const PAIRS: [(usize, usize); 3] = [(0, 1), (0, 2), (1, 2)];
/// The first machine dials out only, as behind NAT: it is the one that gets new addresses.
const LAPTOP: usize = 0;
const ROUTES: [Route; 6] = [
    Route::new((0, "alice"), (1, "bob")),
    Route::new((1, "carol"), (0, "dave")).urgent(),
    Route::new((0, "erin"), (2, "frank")).urgent(),
    Route::new((2, "grace"), (0, "heidi")),
    Route::new((1, "ivan"), (2, "judy")),
    Route::new((2, "mallory"), (1, "niaj")).urgent(),
];

/// What becomes of the path between two machines for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weather {
    Loss,
    Bursts,
    Far,
    Jitter,
    Reorder,
    Slow,
    OneWay,
    NoUdp,
    Down,
    NewAddress,
}

use Weather::{Bursts, Down, Far, Jitter, Loss, NewAddress, NoUdp, OneWay, Reorder, Slow};

const KINDS: [Weather; 10] = [Loss, Bursts, Far, Jitter, Reorder, Slow, OneWay, NoUdp, Down, NewAddress];

/// On a day without weather.
fn fair() -> Shape {
    Shape::delayed(Duration::from_millis(10))
}

/// Each pair of machines has a spell of weather, then a while without, and so on.
struct Sky<'a> {
    world: &'a World,
    random: StdRng,
    /// Kinds that are still to come before any comes again.
    deck: Vec<Weather>,
    laptop: IpAddr,
    counts: BTreeMap<Weather, u32>,
}

impl<'a> Sky<'a> {
    fn over(world: &'a World, seed: u64) -> Sky<'a> {
        let random = StdRng::seed_from_u64(seed);
        let laptop = world.address(LAPTOP);
        Sky { world, random, deck: Vec::new(), laptop, counts: BTreeMap::new() }
    }

    /// For so long; then all is fair again.
    fn changes(&mut self, time: Duration) {
        let began = Instant::now();
        let mut current = [None; PAIRS.len()];
        let mut until = [began; PAIRS.len()];
        while began.elapsed() < time {
            for (n, pair) in PAIRS.into_iter().enumerate() {
                if Instant::now() < until[n] {
                    continue;
                }
                let millis = if current[n].take().is_some() {
                    self.ends(pair);
                    self.random.random_range(200..900)
                } else {
                    let weather = self.draw();
                    let lasts = self.begins(weather, pair);
                    current[n] = Some(weather);
                    eprintln!("{:>6} ms: {weather:?} for {lasts} ms {pair:?}", began.elapsed().as_millis());
                    lasts
                };
                until[n] = Instant::now() + Duration::from_millis(millis);
            }
            // The pace of the weather, not a wait for anything.
            sleep(STEP);
        }
        PAIRS.into_iter().for_each(|pair| self.ends(pair));
    }

    fn draw(&mut self) -> Weather {
        if self.deck.is_empty() {
            self.deck = KINDS.to_vec();
            self.deck.shuffle(&mut self.random);
        }
        let weather = self.deck.pop().unwrap();
        *self.counts.entry(weather).or_default() += 1;
        weather
    }

    /// For how many milliseconds it lasts.
    fn begins(&mut self, weather: Weather, (a, b): (usize, usize)) -> u64 {
        let random = &mut self.random;
        let ms = Duration::from_millis;
        let (from, to) = if random.random_bool(0.5) { (a, b) } else { (b, a) };
        let star = &self.world.star;
        match weather {
            Loss => star.set_both(a, b, &fair().losing(random.random_range(0.01..0.05))),
            Bursts => star.set_both(a, b, &fair().losing_bursts(0.05, random.random_range(2.0..10.0))),
            Far => star.set_both(a, b, &Shape::delayed(ms(random.random_range(50..=300)))),
            Jitter => star.set_both(a, b, &Shape::delayed(ms(60)).jittered(ms(random.random_range(10..50)))),
            Reorder => {
                let uneven = Shape::delayed(ms(40)).jittered(ms(random.random_range(5..40)));
                star.set_both(a, b, &Shape { reorder: true, ..uneven });
            }
            Slow => star.set_both(a, b, &fair().limited(random.random_range(0.3e6..2e6), 32 * 1024)),
            OneWay => star.cut(from, to),
            NoUdp => star.block_udp(from, true),
            Down => star.link(a, b, false),
            NewAddress => self.moves(),
        }
        match weather {
            // Long enough for the way through the edge.
            NoUdp => 4_000,
            NewAddress => 1_000,
            _ => self.random.random_range(1_000..4_000),
        }
    }

    /// The laptop is on another network.
    fn moves(&mut self) {
        let last = u8::try_from(self.counts[&NewAddress] % 250).unwrap() + 1;
        let new = IpAddr::from(Ipv4Addr::new(198, 51, 100, last));
        self.world.star.add_address(LAPTOP, new).unwrap();
        self.world.star.remove_address(LAPTOP, self.laptop).unwrap();
        self.laptop = new;
    }

    fn ends(&self, (a, b): (usize, usize)) {
        self.world.star.set_both(a, b, &fair());
        // Should it be another pair's as well, that ends too.
        [a, b].into_iter().for_each(|n| self.world.star.block_udp(n, false));
    }
}

/// A laptop and two servers with all their programs.
fn laptop_and_servers() -> World {
    let mut world = World::init(&["dc", "agni", "rushabdev"], Family::Four);
    world.star.set_all(&fair());
    let own = world.node_address(LAPTOP);
    world.configure(LAPTOP, &format!("advertise = [\"{own}\"]"), "advertise = []");
    world.strike_out(LAPTOP, "advertise_fallback");
    for server in [1, 2] {
        world.configure(server, &format!("addresses = [\"{own}\"]"), "addresses = []");
        world.strike_out(server, &format!("fallback = [\"wss://{}", own.ip()));
    }
    (0..3).for_each(|n| world.start_node(n));
    (0..3).for_each(|n| world.start_edge(n));
    world.wait_whole();
    world
}

#[test]
fn in_any_weather_all_that_was_accepted_arrives_once_and_in_order() {
    // covers Q02, Q03, T01
    inside("weather::in_any_weather_all_that_was_accepted_arrives_once_and_in_order", || {
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let given = std::env::var("ROAM_SEED").ok().map(|seed| seed.parse().expect("ROAM_SEED is a number"));
        let seed: u64 = given.unwrap_or(since_1970.as_micros() as u64 % 1_000_000);
        let time = if std::env::var_os("ROAM_LONG").is_some() { TIME_LONG } else { TIME };
        eprintln!("ROAM_SEED={seed}, for {time:?}");
        let world = laptop_and_servers();
        let mut sky = Sky::over(&world, seed);
        let mut healed = None;
        let began = Instant::now();
        let flows = world.flows_among(&ROUTES, PACE, || {
            sky.changes(time);
            healed = Some(Instant::now());
            world.wait_whole();
        });
        let healed = healed.unwrap();
        for (flow, route) in flows.iter().zip(&ROUTES) {
            eprintln!(
                "{route:?}: {} messages, longest silence {:?}; caught up {:?} after the weather",
                flow.came.len(),
                flow.longest_gap(began),
                flow.caught_up(healed)
            );
            assert!(flow.caught_up(healed) < PATIENCE, "ROAM_SEED={seed}");
        }
        let sum = |what: &str| (0..3).map(|n| world.metric(n, what)).sum::<f64>();
        for what in ["carrier_changes", "links_closed", "links_moved", "udp_rebinds", "dials"] {
            eprintln!("{what}: {}", sum(&format!("trishula_{what}_total")));
        }
        eprintln!("ROAM_SEED={seed}: {:?}", sky.counts);
        let all =
            PAIRS.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]).map(|(a, b)| world.star.counters(a, b));
        let met = all.fold([0; 4], |[lost, cut, blocked, full], c| {
            [lost + c.lost, cut + c.cut, blocked + c.blocked, full + c.overflowed]
        });
        eprintln!("packets lost, cut, blocked, without room: {met:?}");
        assert!(KINDS.iter().all(|kind| sky.counts.contains_key(kind)), "ROAM_SEED={seed}: {:?}", sky.counts);
        assert!(met[..3].iter().all(|packets| *packets > 0), "no weather came to the packets: {met:?}");
        assert_eq!(sum("trishula_task_panics_total"), 0.0, "ROAM_SEED={seed}");
        world.assert_always_dialled();
    });
}
