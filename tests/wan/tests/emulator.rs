//! The emulator itself, by plain sockets in real namespaces: what is asked for is what packets meet.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use trishula_wan::{Shape, Star, inside, set_congestion};

/// Ten times what anything here should take, and more.
const PATIENCE: Duration = Duration::from_secs(20);
const PORT: u16 = 7000;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A socket in a namespace, on its first address of this family.
fn socket(star: &Star, namespace: usize, six: bool) -> UdpSocket {
    let at = star.at(namespace);
    let address: IpAddr = if six { at.ipv6().into() } else { at.ipv4().into() };
    let socket = at.enter(|| UdpSocket::bind((address, PORT))).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn pair(star: &Star, six: bool) -> (UdpSocket, UdpSocket) {
    let (a, b) = (socket(star, 0, six), socket(star, 1, six));
    a.connect(b.local_addr().unwrap()).unwrap();
    b.connect(a.local_addr().unwrap()).unwrap();
    (a, b)
}

/// How long a packet takes one way, each.
fn one_way(a: &UdpSocket, b: &UdpSocket, packets: usize) -> Vec<Duration> {
    let mut took = Vec::new();
    for n in 0..packets {
        let began = Instant::now();
        a.send(&[n as u8; 100]).unwrap();
        assert_eq!(b.recv(&mut [0; 200]).unwrap(), 100);
        took.push(began.elapsed());
    }
    took.sort();
    took
}

/// How many of so many arrive; a last one is sent again and again until it does, and then no other is under way.
fn arriving(star: &Star, a: &UdpSocket, b: &UdpSocket, packets: u32) -> u32 {
    let receiver = b.try_clone().unwrap();
    let counting = thread::spawn(move || {
        let mut arrived = 0;
        let mut packet = [0; 200];
        while receiver.recv(&mut packet).unwrap() > 1 {
            arrived += 1;
        }
        arrived
    });
    for n in 0..packets {
        a.send(&[1; 100]).unwrap();
        // As a pace: a socket's buffer is not what is tested.
        if n % 50 == 49 {
            thread::sleep(ms(2));
        }
    }
    let before = star.counters(0, 1).packets;
    assert!(before > 0, "nothing came as far as the emulator");
    while !counting.is_finished() {
        a.send(&[1]).unwrap();
        thread::sleep(ms(10));
    }
    counting.join().unwrap()
}

fn silent(socket: &UdpSocket, within: Duration) -> bool {
    socket.set_read_timeout(Some(within)).unwrap();
    let silent = match socket.recv(&mut [0; 200]) {
        Err(e) => [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&e.kind()),
        Ok(_) => false,
    };
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    silent
}

#[test]
fn a_delay_is_the_one_that_was_asked_for() {
    // covers T25
    inside("a_delay_is_the_one_that_was_asked_for", || {
        let star = Star::new(2).unwrap();
        star.set(0, 1, &Shape::delayed(ms(25)));
        star.set(1, 0, &Shape::delayed(ms(5)));
        for six in [false, true] {
            let (a, b) = pair(&star, six);
            let (there, back) = (one_way(&a, &b, 40), one_way(&b, &a, 40));
            eprintln!("25 ms: p50 {:?} p90 {:?}; 5 ms: p50 {:?}", there[20], there[36], back[20]);
            assert!(there[0] >= ms(25) && back[0] >= ms(5), "{:?} {:?}", there[0], back[0]);
            assert!(there[20] < ms(35) && back[20] < ms(15), "{:?} {:?}", there[20], back[20]);
        }
        // Changed while it runs.
        star.change(0, 1, |shape| shape.delay = ms(300));
        let (a, b) = pair(&star, false);
        assert!(one_way(&a, &b, 1)[0] >= ms(300));
    });
}

#[test]
fn packets_are_lost_by_chance_and_in_bursts() {
    // covers T25
    inside("packets_are_lost_by_chance_and_in_bursts", || {
        for shape in [Shape::default().losing(0.1), Shape::default().losing_bursts(0.1, 5.0)] {
            let star = Star::new(2).unwrap();
            star.set(0, 1, &shape);
            let (a, b) = pair(&star, false);
            let arrived = arriving(&star, &a, &b, 3000);
            let lost = star.counters(0, 1).lost;
            eprintln!("{arrived} of 3000 arrived, {lost} were lost");
            assert!((150..450).contains(&lost), "{lost} of 3000 were lost");
            // A busy machine may lose more, in the receiver's buffer.
            assert!((2000..=2900).contains(&arrived), "{arrived} of 3000 arrived");
            // The other direction loses nothing.
            assert_eq!(star.counters(1, 0).lost, 0);
        }
    });
}

#[test]
fn a_limited_way_is_so_fast_and_its_queue_drops_what_is_too_much() {
    // covers T25
    inside("a_limited_way_is_so_fast_and_its_queue_drops_what_is_too_much", || {
        let star = Star::new(2).unwrap();
        star.set(0, 1, &Shape::delayed(ms(5)).limited(8e6, 64 * 1024));
        star.set(1, 0, &Shape::delayed(ms(5)));
        let listener = star.at(1).enter(|| TcpListener::bind((star.at(1).ipv4(), PORT))).unwrap();
        let to = SocketAddr::from((star.at(1).ipv4(), PORT));
        let mut sender = star.at(0).enter(|| TcpStream::connect(to)).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        let sending = thread::spawn(move || sender.write_all(&vec![7; 2_000_000]));
        let began = Instant::now();
        let mut bytes = Vec::new();
        receiver.read_to_end(&mut bytes).unwrap();
        sending.join().unwrap().unwrap();
        let mbit = bytes.len() as f64 * 8.0 / began.elapsed().as_secs_f64() / 1e6;
        eprintln!("8 Mbit/s: {mbit:.1} of TCP");
        assert_eq!(bytes.len(), 2_000_000);
        assert!((1.0..8.2).contains(&mbit), "{mbit}");

        // 300 packets of 1,028 bytes at once: 63 of them find room.
        let (a, b) = pair(&star, false);
        (0..300).for_each(|_| assert_eq!(a.send(&[1; 1000]).unwrap(), 1000));
        let mut arrived = 0;
        while !silent(&b, ms(500)) {
            arrived += 1;
        }
        eprintln!("{arrived} of 300 found room");
        assert!((60..200).contains(&arrived), "{arrived} of 300 found room");
        assert!(star.counters(0, 1).overflowed >= 100);
    });
}

#[test]
fn a_cut_is_one_way_and_a_link_goes_down_and_up() {
    // covers T25
    inside("a_cut_is_one_way_and_a_link_goes_down_and_up", || {
        let star = Star::new(2).unwrap();
        star.set_all(&Shape::delayed(ms(5)));
        let (a, b) = pair(&star, false);
        star.cut(0, 1);
        a.send(b"lost").unwrap();
        b.send(b"arrives").unwrap();
        assert_eq!(a.recv(&mut [0; 20]).unwrap(), 7);
        assert!(silent(&b, ms(300)));
        star.mend(0, 1);
        a.send(b"again").unwrap();
        assert_eq!(b.recv(&mut [0; 20]).unwrap(), 5);

        // What is on its way does not arrive either.
        star.change(0, 1, |shape| shape.delay = ms(200));
        a.send(b"on its way").unwrap();
        star.link(0, 1, false);
        star.change(0, 1, |shape| shape.delay = ms(5));
        b.send(b"lost").unwrap();
        assert!(silent(&b, ms(500)) && silent(&a, ms(100)));
        star.link(0, 1, true);
        a.send(b"up").unwrap();
        assert_eq!(b.recv(&mut [0; 20]).unwrap(), 2);
    });
}

#[test]
fn udp_is_blocked_and_tcp_passes() {
    // covers T25
    inside("udp_is_blocked_and_tcp_passes", || {
        let star = Star::new(3).unwrap();
        let (a, b) = pair(&star, true);
        star.block_udp(1, true);
        a.send(b"lost").unwrap();
        b.send(b"lost").unwrap();
        assert!(silent(&b, ms(200)) && silent(&a, ms(100)));
        assert!(star.counters(0, 1).blocked >= 1 && star.counters(1, 0).blocked >= 1);
        let address = star.at(1).ipv6();
        let listener = star.at(1).enter(|| TcpListener::bind((address, PORT))).unwrap();
        star.at(0).enter(|| TcpStream::connect((address, PORT))).unwrap();
        listener.accept().unwrap();
        // The third one is not concerned.
        let c = socket(&star, 2, true);
        c.send_to(b"passes", a.local_addr().unwrap()).unwrap();
        star.block_udp(1, false);
        b.send(b"and again").unwrap();
        let unconnected = star.at(0).enter(|| UdpSocket::bind((star.at(0).ipv6(), PORT + 1))).unwrap();
        unconnected.set_read_timeout(Some(PATIENCE)).unwrap();
        c.send_to(b"passes", unconnected.local_addr().unwrap()).unwrap();
        assert_eq!(unconnected.recv(&mut [0; 20]).unwrap(), 6);
        assert_eq!(a.recv(&mut [0; 20]).unwrap(), 9);
    });
}

#[test]
fn a_namespace_changes_its_address() {
    // covers T25
    inside("a_namespace_changes_its_address", || {
        let star = Star::new(2).unwrap();
        let b = socket(&star, 1, false);
        let (old, new): (IpAddr, IpAddr) = (star.at(0).ipv4().into(), "198.51.100.7".parse().unwrap());
        star.add_address(0, new).unwrap();
        star.remove_address(0, old).unwrap();
        let a = star.at(0).enter(|| UdpSocket::bind(("0.0.0.0", PORT))).unwrap();
        a.set_read_timeout(Some(PATIENCE)).unwrap();
        a.send_to(b"from elsewhere", b.local_addr().unwrap()).unwrap();
        let (_, from) = b.recv_from(&mut [0; 20]).unwrap();
        assert_eq!(from.ip(), new);
        b.send_to(b"answer", from).unwrap();
        assert_eq!(a.recv(&mut [0; 20]).unwrap(), 6);
        b.send_to(b"nobody", (old, PORT)).unwrap();
        assert!(silent(&a, ms(200)));
    });
}

#[test]
fn programs_start_inside() {
    // covers T25
    inside("programs_start_inside", || {
        let star = Star::new(2).unwrap();
        let mut ip = Command::new("ip");
        ip.args(["-json", "addr", "show", "dev", "wan0"]).stdout(Stdio::piped());
        let said = star.at(1).start(&mut ip).unwrap().wait_with_output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(said.contains("192.0.2.2") && said.contains("2001:db8::2"), "{said}");
    });
}

#[test]
fn the_program_says_how_to_enter_and_leaves_nothing_behind_when_killed() {
    // covers T25
    inside("the_program_says_how_to_enter_and_leaves_nothing_behind_when_killed", || {
        // A namespace outlives its processes only where it is mounted.
        let mounted = || std::fs::read_to_string("/proc/self/mounts").unwrap().matches("nsfs").count();
        let before = mounted();
        let mut program = Command::new(env!("CARGO_BIN_EXE_trishula-wan"));
        let mut program = program
            .args(["--namespaces", "2", "--delay-ms", "20"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(program.stdout.take().unwrap()).lines();
        let first = said.next().unwrap().unwrap();
        let enter = first.split_once(" nsenter ").unwrap().1;
        assert!(said.by_ref().any(|line| line.unwrap() == "READY"));
        let route =
            Command::new("nsenter").args([enter, "ip", "route", "get", "192.0.2.2"]).output().unwrap();
        assert!(String::from_utf8_lossy(&route.stdout).contains("dev wan0"), "{route:?}");
        program.kill().unwrap();
        program.wait().unwrap();
        assert_eq!(mounted(), before);
    });
}

#[test]
fn lines_steer_a_star() {
    // covers T25
    use trishula_wan::control::{Answer, obey};
    inside("lines_steer_a_star", || {
        let star = Star::new(2).unwrap();
        for line in [
            "delay 30 0 1",
            "loss 0",
            "largest 1500",
            "rate 100 256",
            "jitter 0",
            "burst 0 4",
            "",
            "help",
            "stats",
        ] {
            assert!(matches!(obey(&star, line), Ok(Answer::Say(_))), "{line}");
        }
        let (a, b) = pair(&star, false);
        assert!(one_way(&a, &b, 3)[0] >= ms(30) && one_way(&b, &a, 3)[0] < ms(30));
        obey(&star, "cut 0 1").unwrap();
        a.send(b"lost").unwrap();
        assert!(silent(&b, ms(200)));
        obey(&star, "mend").unwrap();
        obey(&star, "udp block 0").unwrap();
        a.send(b"lost").unwrap();
        assert!(silent(&b, ms(200)));
        obey(&star, "udp pass 0").unwrap();
        obey(&star, "address add 0 198.51.100.9").unwrap();
        for wrong in
            ["delay", "delay x", "delay 5 0", "delay -1", "cut 0 2", "udp stop 0", "shout", "address add 0 x"]
        {
            assert!(obey(&star, wrong).is_err(), "{wrong}");
        }
        assert_eq!(obey(&star, "quit"), Ok(Answer::Quit));
    });
}

#[test]
fn a_socket_has_the_congestion_control_that_it_is_given() {
    // covers T25
    inside("a_socket_has_the_congestion_control_that_it_is_given", || {
        let star = Star::new(1).unwrap();
        let listener = star.at(0).enter(|| TcpListener::bind((star.at(0).ipv4(), PORT))).unwrap();
        set_congestion(&listener, "reno").unwrap();
        assert!(set_congestion(&listener, "none-such").is_err());
    });
}
