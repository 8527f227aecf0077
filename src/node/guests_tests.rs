//! Many friends, and what is kept of them.

use super::*;

/// A friend's key, the one number `n`.
fn friend(n: u8) -> [u8; 32] {
    [n; 32]
}

fn grant_of(n: u8) -> Grant {
    Grant { subject: x25519_public(&friend(n)), ..grant(n) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_friends_are_cut_off_under_load() {
    let server = echo_server().await;
    let place = Place::claimed(|config| config.allow = vec![server.to_string()]).await;
    let mut friends = Vec::new();
    for n in 1..=100 {
        let session = place.connect(&friend(n), grant_of(n), None).await.unwrap();
        let (reply, stream) = open(&session, "127.0.0.1", server.port()).await;
        assert_eq!(reply, ExitReply::Open);
        let (cut, is_cut) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(stream);
            let pump = async { while write.write_all(&[7; 4096]).await.is_ok() {} };
            let drain = async { while read.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {} };
            tokio::select! { () = pump => {}, () = drain => {} }
            let _ = cut.send(Instant::now());
        });
        friends.push((session, is_cut));
    }
    let visit = place.visit().await;
    let revoke =
        |n| Revocation { issuer: [0; 32], target: Target::Grant([n; 8]), at: now_s(), reason: String::new() }.sign(&owner()).encode();
    let begun = Instant::now();
    let answer = ask(&visit, ControlRequest::Revoke((1..=100).map(revoke).collect())).await;
    assert_eq!(answer, Reply::Done(Revoked { accepted: 100, closed: 100 }));
    let mut times = Vec::new();
    for (session, is_cut) in friends {
        let cut = within(Duration::from_secs(20), "cutting off a friend", is_cut).await.unwrap();
        within(Duration::from_secs(20), "closing a session", session.closed()).await;
        times.push(cut.duration_since(begun));
    }
    times.sort();
    println!("a hundred friends revoked under load: half after {:?}, 99 after {:?}, all after {:?}", times[49], times[98], times[99]);
    assert!(times[98] < Duration::from_secs(5), "{:?}", times[98]);
}

/// Every byte of every file under a folder.
fn everything(folder: &std::path::Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => all.extend(everything(&entry.path())),
            kind if kind.is_file() => all.extend(std::fs::read(entry.path()).unwrap()),
            _ => {}
        }
    }
    all
}

/// A meter, not a diary: visited, refused and unknown names leave no trace in memory, log or reports.
#[tokio::test]
async fn of_a_thousand_visited_names_none_is_kept() {
    let server = echo_server().await;
    let mut place = Place::claimed(|config| config.allow = vec![server.to_string()]).await;
    let name = |n: usize| format!("seeded-{:08x}.visited.example", blake3::hash(&n.to_le_bytes()).as_bytes()[0] as usize * 65_536 + n);
    let hosts: String = (0..1000).map(|n| format!("127.0.0.1 {}\n", name(n))).collect();
    let known = std::fs::read_to_string(place.dir.path().join("hosts")).unwrap();
    std::fs::write(place.dir.path().join("hosts"), known + &hosts).unwrap();
    place.start();
    let scope = Scope { deny: vec!["*7.visited.example".into()], ..Scope::default() };
    let session = place.connect(&FRIEND, Grant { scope, ..grant(1) }, None).await.unwrap();
    let (mut visited, mut refused) = (0, 0);
    for n in 0..1000 {
        // Some are denied by name, some by port, the others are visited.
        let port = if n % 10 == 3 { 9 } else { server.port() };
        let (reply, mut stream) = open(&session, &name(n), port).await;
        if reply != ExitReply::Open {
            refused += 1;
            continue;
        }
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        visited += 1;
    }
    assert!(visited > 700 && refused > 100, "{visited} visited, {refused} refused");
    assert!(place.log().contains("outside-grant"));
    let status = ask::<Status>(&place.visit().await, ControlRequest::Status).await;
    let (log, report) = (place.log(), format!("{status:?}"));
    assert!(report.contains(&visited.to_string()), "the meter runs: {report}");
    drop(session);
    let folder = place.dir.path().join("state");
    place.node = None;
    let kept = [everything(&folder), log.into_bytes(), report.into_bytes()].concat();
    assert!(kept.windows(b"seeded-".len()).all(|part| part != b"seeded-"));
    assert!(kept.windows(b"visited.example".len()).all(|part| part != b"visited.example"));
}

#[tokio::test]
async fn a_day_s_bytes_end_the_session() {
    let server = echo_server().await;
    let place = Place::claimed(|config| config.allow = vec![server.to_string()]).await;
    let limits = Limits { bytes_per_day: Some(100_000), ..Limits::default() };
    let session = place.friend(limits).await;
    let (_, mut stream) = open(&session, "127.0.0.1", server.port()).await;
    let _ = stream.write_all(&vec![1; 200_000]).await;
    within(Duration::from_secs(5), "the end of the session", session.closed()).await;
    assert_eq!(refusal(place.connect(&FRIEND, Grant { limits, ..grant(1) }, None).await), Refusal::LimitReached);
}
