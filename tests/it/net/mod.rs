//! The network of a machine against real neighbours, in network namespaces: dnsmasq, radvd, and a scripted DHCP server
//! for what no honest one would say. They need root, and are ignored in a plain `cargo test`; `ci/test` runs them.

mod lab;

use dhcproto::v4::{DhcpOption, MessageType};
use lab::{Lab, Machine, PATIENCE, ROUTER, Scripted, answer, eventually, honest};
use portdistrict::node::init::net::{How, Interface, Summary, Trouble};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const ME: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 50);
/// dnsmasq with one address to give.
const RANGE: &str = "--dhcp-range=10.9.0.50,10.9.0.50,1h";

fn usable(summary: &Summary) -> bool {
    summary.is_usable()
}

/// The addresses of one kind on the first interface.
fn addresses(interface: &Interface, how: How) -> Vec<(IpAddr, u8)> {
    interface.addresses.iter().filter(|address| address.how == how).map(|address| (address.ip, address.prefix)).collect()
}

fn name_servers(lab: &Lab) -> Vec<String> {
    let text = std::fs::read_to_string(lab.resolv_conf()).unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix("nameserver ")).map(String::from).collect()
}

#[test]
#[ignore = "needs root: ci/test"]
fn a_plain_lease() {
    let mut lab = Lab::with_router();
    lab.dnsmasq(&[
        RANGE,
        "--dhcp-option=6,10.9.0.1,10.9.0.2",
        "--dhcp-option-force=26,1460",
        "--dhcp-option=12,evil",
        "--dhcp-option=119,evil.example",
    ]);
    let mut machine = Machine::start(&lab, PATIENCE);
    let summary = machine.ready().unwrap();
    let interface = &summary.interfaces[0];
    assert_eq!(addresses(interface, How::Dhcp4), [(ME.into(), 24)]);
    assert_eq!((&interface.name[..], &interface.routers[..]), ("c0", &[IpAddr::from(ROUTER)][..]));
    assert_eq!(interface.name_servers, [IpAddr::from([10, 9, 0, 1]), IpAddr::from([10, 9, 0, 2])]);
    assert_eq!(name_servers(&lab), ["10.9.0.1", "10.9.0.2"]);
    assert!(!std::fs::read_to_string(lab.resolv_conf()).unwrap().contains("evil"));
    assert!(lab.ours("link show c0").contains("mtu 1460"));
    assert!(lab.ours("-4 addr show lo").contains("127.0.0.1/8"));
    assert!(lab.reaches_far(ME));
}

#[test]
#[ignore = "needs root: ci/test"]
fn a_lease_of_one_address_with_its_router_outside() {
    let mut lab = Lab::with_router();
    let routes = "--dhcp-option=121,10.9.0.1/32,0.0.0.0,0.0.0.0/0,10.9.0.1";
    lab.dnsmasq(&[RANGE, "--dhcp-option=1,255.255.255.255", routes, "--dhcp-option=3,10.9.0.99"]);
    let mut machine = Machine::start(&lab, PATIENCE);
    let summary = machine.ready().unwrap();
    assert_eq!(addresses(&summary.interfaces[0], How::Dhcp4), [(ME.into(), 32)]);
    assert_eq!(summary.interfaces[0].routers, [IpAddr::from(ROUTER)]);
    assert!(lab.ours("route").contains("10.9.0.1 dev c0"));
    assert!(lab.reaches_far(ME));
}

#[test]
#[ignore = "needs root: ci/test"]
fn a_router_outside_that_is_not_said_to_be_on_the_link() {
    let mut lab = Lab::with_router();
    lab.dnsmasq(&[RANGE, "--dhcp-option=1,255.255.255.255", "--dhcp-option=3,10.9.0.1"]);
    let mut machine = Machine::start(&lab, PATIENCE);
    assert_eq!(machine.ready().unwrap().interfaces[0].routers, [IpAddr::from(ROUTER)]);
    assert!(lab.reaches_far(ME));
}

#[test]
#[ignore = "needs root: ci/test"]
fn hostile_routes_and_name_servers_are_left_out() {
    let mut lab = Lab::with_router();
    let routes =
        "--dhcp-option=121,127.0.0.0/8,10.9.0.1,224.0.0.0/4,10.9.0.1,192.0.2.0/24,127.0.0.1,203.0.113.0/24,10.9.0.1,0.0.0.0/0,10.9.0.1";
    lab.dnsmasq(&[RANGE, routes, "--dhcp-option=6,127.0.0.1,224.0.0.1,255.255.255.255,10.9.0.3"]);
    let mut machine = Machine::start(&lab, PATIENCE);
    let summary = machine.ready().unwrap();
    assert_eq!(summary.name_servers(), [IpAddr::from([10, 9, 0, 3])]);
    let routes = lab.ours("route");
    assert!(!routes.contains("127.0.0.0") && !routes.contains("224.") && !routes.contains("192.0.2."), "{routes}");
    assert!(routes.contains("203.0.113.0/24 via 10.9.0.1"), "{routes}");
    let told = machine.lines().join("\n");
    assert!(told.contains("c0: the route 127.0.0.0/8 by 10.9.0.1 is left out: loopback"), "{told}");
    assert!(told.contains("c0: the name server 127.0.0.1 is left out: it is loopback"), "{told}");
}

#[test]
#[ignore = "needs root: ci/test"]
fn bad_offers_are_reported_once_and_ignored() {
    let lab = Lab::with_router();
    let discovers = AtomicU32::new(0);
    let _server = Scripted::start(&lab, move |request| {
        if request.kind != MessageType::Discover {
            return vec![honest(request, ME, 3600)];
        }
        let good = honest(request, ME, 3600);
        match discovers.fetch_add(1, Ordering::Relaxed) {
            0 => vec![answer(request, MessageType::Offer, Ipv4Addr::new(127, 0, 0, 5), 3600, &[]); 20],
            1 => vec![good[..250].to_vec(), good[..20].to_vec(), Vec::new()],
            2 => vec![answer(request, MessageType::Offer, ME, 3, &[])],
            _ => vec![good],
        }
    });
    let mut machine = Machine::start(&lab, PATIENCE);
    assert!(machine.ready().is_ok());
    let bad: Vec<&str> = machine.lines().into_iter().filter(|line| line.contains("ignored")).collect();
    assert_eq!(bad.len(), 3, "{bad:#?}");
    assert_eq!(bad[0], "c0: a DHCP answer is ignored: 127.0.0.5 cannot be this machine's address: it is loopback");
    assert!(bad[1].ends_with("is missing") || bad[1].contains("malformed"), "{bad:#?}");
    assert_eq!(bad[2], "c0: a DHCP answer is ignored: a lease of 3 s is too short, the least is 10 s");
}

#[test]
#[ignore = "needs root: ci/test"]
fn nobody_answers() {
    let lab = Lab::with_router();
    let mut machine = Machine::start(&lab, Duration::from_secs(3));
    let error = machine.ready().unwrap_err();
    assert!(error.starts_with("no network: c0: no DHCP answer in "), "{error}");
    assert!(error.ends_with(" s, no IPv6 router"), "{error}");
    // It goes on: a server that comes later is found.
    let _server = Scripted::start(&lab, |request| vec![honest(request, ME, 3600)]);
    machine.state("a late lease", usable);
}

#[test]
#[ignore = "needs root: ci/test"]
fn no_interface_and_no_carrier() {
    let lab = Lab::new();
    let mut machine = Machine::start(&lab, Duration::from_millis(500));
    assert_eq!(machine.ready().unwrap_err(), "no network interface: is the driver in the image?");
    // One that appears later counts too.
    lab.cable(0);
    machine.state("the late interface", |summary| summary.interfaces.iter().any(|it| it.name == "c0"));
    lab.theirs("link set s0 down");
    drop(machine);
    let mut machine = Machine::start(&lab, Duration::from_secs(1));
    assert_eq!(machine.ready().unwrap_err(), "no network: c0: no carrier");
    lab.theirs(&format!("addr add {ROUTER}/24 dev s0"));
    lab.theirs("link set s0 up");
    let _server = Scripted::start(&lab, |request| vec![honest(request, ME, 3600)]);
    machine.state("a lease over a late cable", usable);
}

#[test]
#[ignore = "needs root: ci/test"]
fn a_lease_without_a_router_is_no_network() {
    let mut lab = Lab::with_router();
    lab.dnsmasq(&[RANGE, "--dhcp-option=3"]);
    let mut machine = Machine::start(&lab, Duration::from_secs(4));
    let error = machine.ready().unwrap_err();
    assert!(error.contains("c0: no IPv6 router, no default route for 10.9.0.50"), "{error}");
}

#[test]
#[ignore = "needs root: ci/test"]
fn a_silent_interface_does_not_hold_up_the_other() {
    let mut lab = Lab::with_router();
    lab.cable(1);
    lab.dnsmasq(&[RANGE]);
    let begun = Instant::now();
    let mut machine = Machine::start(&lab, PATIENCE);
    let summary = machine.ready().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(summary.interfaces[0].is_usable());
    let summary = machine.state("the silent one", |summary| summary.interfaces.iter().any(|it| it.name == "c1" && !it.troubles.is_empty()));
    assert!(summary.interfaces.iter().find(|it| it.name == "c1").is_some_and(|it| matches!(it.troubles[0], Trouble::NoDhcp4Answer(_))));
}

#[test]
#[ignore = "needs root: ci/test"]
fn a_part_of_another_interface_is_left_alone() {
    let mut lab = Lab::with_router();
    lab.ours("link add br0 type bridge");
    lab.ours("link set c0 master br0");
    lab.ours("link set c0 up");
    lab.dnsmasq(&[RANGE]);
    let mut machine = Machine::start(&lab, PATIENCE);
    let summary = machine.ready().unwrap();
    assert_eq!(summary.interfaces.iter().map(|it| &it.name[..]).collect::<Vec<_>>(), ["br0"]);
}

#[test]
#[ignore = "needs root: ci/test"]
fn two_interfaces_with_leases_have_a_default_route_each() {
    let mut lab = Lab::with_router();
    lab.cable(1);
    lab.theirs("addr add 10.8.0.1/24 dev s1");
    lab.dnsmasq(&[RANGE, "--interface=s1", "--dhcp-range=10.8.0.50,10.8.0.50,1h"]);
    let mut machine = Machine::start(&lab, PATIENCE);
    machine.state("both", |summary| summary.interfaces.len() == 2 && summary.interfaces.iter().all(Interface::is_usable));
    let routes = lab.ours("route show default");
    assert!(routes.contains("via 10.9.0.1 dev c0") && routes.contains("via 10.8.0.1 dev c1"), "{routes}");
}

#[test]
#[ignore = "needs root: ci/test"]
fn a_lease_is_renewed_rebound_lost_and_found_again() {
    let lab = Lab::with_router();
    let requests = AtomicU32::new(0);
    let server = Scripted::start(&lab, move |request| {
        let is_request = request.kind == MessageType::Request;
        match requests.fetch_add(u32::from(is_request), Ordering::Relaxed) {
            // The first lease and its first renewal; then silence until a search begins.
            0 | 1 => {
                let kind = if is_request { MessageType::Ack } else { MessageType::Offer };
                vec![answer(request, kind, ME, 10, &[DhcpOption::DomainNameServer(vec![ROUTER])])]
            }
            _ if !is_request => vec![honest(request, Ipv4Addr::new(10, 9, 0, 51), 3600)],
            _ if !request.message.ciaddr().is_unspecified() => Vec::new(),
            _ => vec![honest(request, Ipv4Addr::new(10, 9, 0, 51), 3600)],
        }
    });
    let mut machine = Machine::start(&lab, PATIENCE);
    assert_eq!(machine.ready().unwrap().name_servers(), [IpAddr::from(ROUTER)]);
    assert!(!server.request(MessageType::Request).unicast);
    let renewal = server.request(MessageType::Request);
    assert!(renewal.unicast && renewal.message.ciaddr() == ME);
    assert!(server.request(MessageType::Request).unicast, "T1 of the second lease");
    let rebinding = server.request(MessageType::Request);
    assert!(!rebinding.unicast && rebinding.message.ciaddr() == ME);
    machine.line("c0: the lease of 10.9.0.50 is lost");
    let lost = machine.state("no address", |summary| !summary.is_usable() && summary.interfaces[0].routers.is_empty());
    assert!(lost.name_servers().is_empty());
    let summary = machine.state("another lease", usable);
    assert_eq!(addresses(&summary.interfaces[0], How::Dhcp4), [(Ipv4Addr::new(10, 9, 0, 51).into(), 24)]);
    assert!(!lab.ours("-4 addr show dev c0").contains("10.9.0.50/"));
}

#[test]
#[ignore = "needs root: ci/test"]
fn a_renewal_changes_routes_and_name_servers_but_not_the_address() {
    let lab = Lab::with_router();
    let requests = AtomicU32::new(0);
    let route = |text: &str| (text.parse().unwrap(), ROUTER);
    let [old, new] = ["192.0.2.0/24", "203.0.113.0/24"].map(|text| vec![route("0.0.0.0/0"), route(text)]);
    let _server = Scripted::start(&lab, move |request| {
        let kind = if request.kind == MessageType::Discover { MessageType::Offer } else { MessageType::Ack };
        let count = requests.fetch_add(u32::from(kind == MessageType::Ack), Ordering::Relaxed);
        let (routes, server) = if count == 0 { (old.clone(), 3) } else { (new.clone(), 4) };
        let options = [DhcpOption::ClasslessStaticRoute(routes), DhcpOption::DomainNameServer(vec![[10, 9, 0, server].into()])];
        vec![answer(request, kind, ME, 10, &options)]
    });
    let mut machine = Machine::start(&lab, PATIENCE);
    assert_eq!(machine.ready().unwrap().name_servers(), [IpAddr::from([10, 9, 0, 3])]);
    let summary = machine.state("other name servers", |summary| summary.name_servers() == [IpAddr::from([10, 9, 0, 4])]);
    assert!(summary.is_usable());
    let has = |part: &str| lab.ours("route").contains(part);
    eventually("the new route alone", || (has("203.0.113.0/24"), has("192.0.2.0/24")), |found| *found == (true, false));
    assert_eq!(name_servers(&lab), ["10.9.0.4"]);
}

#[test]
#[ignore = "needs root: ci/test"]
fn a_refused_renewal_loses_the_lease_at_once() {
    let lab = Lab::with_router();
    let server = Scripted::start(&lab, |request| {
        if request.message.ciaddr().is_unspecified() {
            return vec![honest(request, ME, 20)];
        }
        vec![answer(request, MessageType::Nak, Ipv4Addr::UNSPECIFIED, 0, &[])]
    });
    let mut machine = Machine::start(&lab, PATIENCE);
    assert!(machine.ready().is_ok());
    machine.line("c0: the lease of 10.9.0.50 is lost");
    machine.state("no address", |summary| !summary.is_usable());
    machine.state("a new lease", usable);
    drop(server);
}

#[test]
#[ignore = "needs root: ci/test"]
fn name_servers_and_prefixes_of_routers() {
    let mut lab = Lab::with_router();
    lab.theirs("addr add 2001:db8:9::1/64 dev s0 nodad");
    let config = |lifetime: u32| {
        format!(
            "interface s0 {{ AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4;\n prefix 2001:db8:9::/64 {{ }};\n \
             RDNSS 2001:db8:9::53 fe80::53 {{ AdvRDNSSLifetime {lifetime}; }}; }};"
        )
    };
    lab.radvd(&config(600));
    lab.forward();
    let mut machine = Machine::start(&lab, PATIENCE);
    let summary = machine.ready().unwrap();
    let slaac = addresses(&summary.interfaces[0], How::Slaac);
    assert_eq!((slaac.len(), slaac[0].1), (1, 64));
    assert!(matches!(slaac[0].0, IpAddr::V6(ip) if ip.segments()[..4] == [0x2001, 0xdb8, 9, 0]));
    assert!(matches!(summary.interfaces[0].routers[..], [IpAddr::V6(router)] if router.is_unicast_link_local()));
    // The link-local one would need an interface beside it.
    let server: IpAddr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 0x53).into();
    assert_eq!(summary.name_servers(), [server]);
    assert_eq!(name_servers(&lab), ["2001:db8:9::53"]);
    // The router takes it back.
    lab.radvd(&config(0));
    machine.state("no name server", |summary| summary.name_servers().is_empty());
    assert!(name_servers(&lab).is_empty());
}

#[test]
#[ignore = "needs root: ci/test"]
fn advertised_name_servers_expire() {
    let mut lab = Lab::with_router();
    lab.theirs("addr add 2001:db8:9::1/64 dev s0 nodad");
    lab.radvd(
        "interface s0 { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; prefix 2001:db8:9::/64 { };\n \
         RDNSS 2001:db8:9::53 { AdvRDNSSLifetime 5; }; };",
    );
    let mut machine = Machine::start(&lab, PATIENCE);
    machine.state("a name server", |summary| !summary.name_servers().is_empty());
    // Killed, so that it says no good-bye.
    lab.stop();
    machine.state("none", |summary| summary.name_servers().is_empty());
}

#[test]
#[ignore = "needs root: ci/test"]
fn an_address_by_dhcp6() {
    let mut lab = Lab::with_router();
    lab.theirs("addr add 2001:db8:9::1/64 dev s0 nodad");
    let options =
        ["--enable-ra", "--dhcp-range=2001:db8:9::100,2001:db8:9::100,64,1h", "--dhcp-option=option6:dns-server,[2001:db8:9::53]"];
    lab.dnsmasq(&options);
    let mut machine = Machine::start(&lab, PATIENCE);
    let summary = machine.ready().unwrap();
    let leased: IpAddr = "2001:db8:9::100".parse().unwrap();
    assert_eq!(addresses(&summary.interfaces[0], How::Dhcp6), [(leased, 128)]);
    assert_eq!(summary.name_servers(), ["2001:db8:9::53".parse::<IpAddr>().unwrap()]);
    assert!(lab.ours("-6 route get 2001:db8:ffff::1").contains("src 2001:db8:9::100"));
}

#[test]
#[ignore = "needs root: ci/test"]
fn name_servers_alone_by_dhcp6() {
    let mut lab = Lab::with_router();
    lab.theirs("addr add 2001:db8:9::1/64 dev s0 nodad");
    // Flag O alone. RDNSS says the same, so the log tells who asked.
    lab.dnsmasq(&[
        "--enable-ra",
        "--log-dhcp",
        "--dhcp-range=2001:db8:9::,ra-stateless",
        "--dhcp-option=option6:dns-server,[2001:db8:9::53]",
    ]);
    let mut machine = Machine::start(&lab, PATIENCE);
    let summary = machine.ready().unwrap();
    assert_eq!(addresses(&summary.interfaces[0], How::Slaac).len(), 1);
    let log = || std::fs::read_to_string(lab.folder.path().join("dnsmasq.log")).unwrap();
    eventually("the question", log, |log| log.contains("DHCPINFORMATION-REQUEST"));
    machine.state("no trouble but DHCPv4", |summary| {
        matches!(summary.interfaces[0].troubles[..], [Trouble::NoDhcp4Answer(_)]) && !summary.name_servers().is_empty()
    });
}
