//! The cover against a real classifier: nDPI, as censors and firewalls use it, must not put a name to our flows.

use portdistrict::session::{Acceptor, Hello, Incoming, ReplayGuard, Welcome, connect};
use portdistrict::token::Limits;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const FLOWS: usize = 1000;
const NODE: [u8; 32] = [0x22; 32];

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn available(tool: &str) -> bool {
    let found = Command::new(tool).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    assert!(found || std::env::var_os("CI").is_none(), "{tool} is missing; ci/test installs it");
    found
}

async fn serve(listener: TcpListener) {
    let acceptor = Acceptor::new(&NODE, None, ReplayGuard::in_memory());
    while let Ok((tcp, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let Ok(Incoming::Session(request)) = acceptor.accept(tcp, now()).await else { return };
            let session = request.welcome(Welcome { session_id: [0; 16], limits: Limits::default(), expires: 0 }).await.unwrap();
            while let Some(mut stream) = session.accept().await {
                let mut text = Vec::new();
                let _ = stream.read_to_end(&mut text).await;
                let _ = stream.write_all(&text.repeat(3)).await;
                let _ = stream.shutdown().await;
            }
        });
    }
}

async fn flow(port: u16, n: usize) {
    let node = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(NODE)).to_bytes();
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let hello = Hello { grant: vec![1; 250], bind: None, version: "0.1.0".to_owned() };
    let (session, _) = connect(tcp, &[0x11; 32], &node, hello, now()).await.unwrap();
    // What a browser would say: the classifier must not see it.
    let mut stream = session.open(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n").await.unwrap();
    stream.write_all(&vec![b'x'; 100 + n % 3000]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    session.close();
}

#[test]
fn ndpi_names_none_of_a_thousand_flows() {
    if !available("tcpdump") || !available("ndpiReader") || !rustix::process::geteuid().is_root() {
        println!("left out: needs root, tcpdump and ndpiReader");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("flows.pcap");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut tcpdump = Command::new("tcpdump")
            .args(["-i", "lo", "-U", "-B", "65536", "-s", "0", "-Z", "root", "-w"])
            .arg(&capture)
            .arg(format!("tcp port {port}"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        tokio::spawn(serve(listener));
        // The capture stands once a first flow is in it.
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::fs::metadata(&capture).map_or(0, |m| m.len()) < 1000 {
            assert!(Instant::now() < deadline, "tcpdump captures nothing");
            flow(port, 0).await;
        }
        // A few more: client ports that come twice are one flow to the classifier.
        for n in 0..FLOWS + 100 {
            flow(port, n).await;
        }
        let mut last = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let size = std::fs::metadata(&capture).unwrap().len();
            if size == last {
                break;
            }
            last = size;
        }
        // An interrupt lets it write out what the kernel still holds.
        rustix::process::kill_process(rustix::process::Pid::from_child(&tcpdump), rustix::process::Signal::INT).unwrap();
        tcpdump.wait().unwrap();
    });
    // -d: by content alone. The guess by port number would name a flow whose random port belongs to somebody.
    let out = Command::new("ndpiReader").arg("-d").arg("-i").arg(&capture).args(["-v", "1"]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let detected = text.split("Detected protocols:").nth(1).unwrap_or_else(|| panic!("{text}"));
    let detected: Vec<_> = detected.lines().skip(1).take_while(|line| line.contains("flows:")).collect();
    let flows: usize =
        detected.iter().filter_map(|line| line.split("flows:").nth(1)?.trim().split(' ').next()?.parse::<usize>().ok()).sum();
    assert!(flows >= FLOWS, "{flows} flows were captured: {detected:?}");
    assert!(detected.iter().all(|line| line.trim_start().starts_with("Unknown")), "{detected:#?}");
}
