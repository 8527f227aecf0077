//! A node and homes for tests of the friend's side: the node answers what the tests ask for, and can be stopped and started.

use super::accept::Net;
use super::invite::Invited;
use super::way::Way;
use crate::config::time::now_s;
use crate::config::{Label, Paths};
use crate::context::Context;
use crate::error::Result;
use crate::keyring::Unlock;
use crate::ledger::kinds::{MachineClaimed, MachineDeployed};
use crate::ledger::{B64, Exit};
use crate::progress::Silent;
use crate::session::messages::{
    ControlRequest, ExitReply, ExitRequest, Kind, Message, Nothing, Renewed, Reply, Revoked, read_first, write_reply,
};
use crate::session::{Acceptor, Hello, Incoming, ReplayGuard, Session, Stream, Unmetered, Welcome, relay};
use crate::token::{Invite, Limits};
use crate::tor::{Places, Tor};
use crate::trust::Refusal;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

const NODE: [u8; 32] = [0x22; 32];
const CLIENT: [u8; 32] = [0x11; 32];

/// What the node did and shall do.
#[derive(Default)]
pub(super) struct Desk {
    pub(super) sessions: Vec<Session>,
    pub(super) asked: Vec<(String, u16)>,
    pub(super) hellos: Vec<([u8; 32], Hello)>,
    pub(super) revoked: Vec<Vec<u8>>,
    pub(super) renewed: Vec<Vec<u8>>,
    pub(super) refuse: Option<Refusal>,
}

pub(super) struct FakeNode {
    pub(super) address: SocketAddr,
    pub(super) desk: Arc<Mutex<Desk>>,
    task: JoinHandle<()>,
}

impl FakeNode {
    pub(super) async fn start() -> FakeNode {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub(super) async fn start_at(address: SocketAddr) -> FakeNode {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let desk = Arc::new(Mutex::new(Desk::default()));
        let task = tokio::spawn(serve(listener, desk.clone()));
        FakeNode { address, desk, task }
    }

    /// Ends it with all its sessions.
    pub(super) fn stop(&self) {
        self.task.abort();
        self.desk.lock().unwrap().sessions.iter().for_each(Session::close);
    }

    pub(super) fn way(&self) -> Way {
        Way {
            name: "home".to_owned(),
            addresses: vec![self.address.to_string()],
            onion: None,
            node: crate::keyring::x25519_public(&NODE),
            secret: Zeroizing::new(CLIENT),
            hello: Hello { grant: Vec::new(), bind: None, version: "test".to_owned() },
            proof: None,
        }
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn serve(listener: TcpListener, desk: Arc<Mutex<Desk>>) {
    let acceptor = Acceptor::new(&NODE, None, ReplayGuard::in_memory());
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let Ok(Incoming::Session(request)) = acceptor.accept(tcp, now_s()).await else { continue };
        desk.lock().unwrap().hellos.push((request.client, request.hello.clone()));
        let refuse = desk.lock().unwrap().refuse;
        if let Some(refusal) = refuse {
            request.refuse(refusal, "because of the test").await.unwrap();
            continue;
        }
        let welcome = Welcome { session_id: [0; 16], limits: Limits::default(), expires: now_s() + 60 };
        let Ok(session) = request.welcome(welcome).await else { continue };
        desk.lock().unwrap().sessions.push(session.clone());
        tokio::spawn(streams(session, desk.clone()));
    }
}

async fn streams(session: Session, desk: Arc<Mutex<Desk>>) {
    while let Some(stream) = session.accept().await {
        tokio::spawn(one(stream, desk.clone()));
    }
}

/// Names decide: `N.reply.test` is answered with code N, everything else is this computer.
async fn one(mut stream: Stream, desk: Arc<Mutex<Desk>>) {
    let (kind, request) = read_first(&mut stream).await.unwrap();
    if kind == Kind::Echo {
        let mut bytes = [0; 32];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        return;
    }
    if kind == Kind::Control {
        let answer = match ControlRequest::decode(&request).unwrap() {
            ControlRequest::Revoke(list) => {
                let accepted = list.len() as u64;
                desk.lock().unwrap().revoked.extend(list);
                Reply::Done(Revoked { accepted, closed: 0 }).encode()
            }
            ControlRequest::Renew(list) => {
                let news = list.len() as u64;
                desk.lock().unwrap().renewed.extend(list);
                Reply::Done(Renewed { news, closed: 0 }).encode()
            }
            ControlRequest::Lease(_) => Reply::Done(Nothing).encode(),
            other => panic!("nobody asks {other:?} here"),
        };
        return write_reply(&mut stream, &answer).await.unwrap();
    }
    let request = ExitRequest::decode(&request).unwrap();
    desk.lock().unwrap().asked.push((request.host.clone(), request.port));
    if let Some(code) = request.host.strip_suffix(".reply.test") {
        stream.write_all(&[code.parse().unwrap()]).await.unwrap();
        stream.shutdown().await.unwrap();
        // The friend's side ends it; a reset now could overtake the code.
        let _ = stream.read_u8().await;
        return;
    }
    match TcpStream::connect(("127.0.0.1", request.port)).await {
        Ok(tcp) => {
            stream.write_all(&[ExitReply::Open as u8]).await.unwrap();
            let _ = relay(tcp, stream, &Unmetered, None).await;
        }
        Err(_) => stream.write_all(&[ExitReply::ConnectionRefused as u8]).await.unwrap(),
    }
}

/// The public key of every such node.
pub(super) fn node_key() -> [u8; 32] {
    crate::keyring::x25519_public(&NODE)
}

/// A home of its own, with an identity.
pub(super) fn home() -> (tempfile::TempDir, Context) {
    let dir = tempfile::tempdir().unwrap();
    let cx = Context::new(Paths::find(Some(&dir.path().join("home"))).unwrap(), Unlock::default());
    cx.init().unwrap();
    (dir, cx)
}

/// Records a claimed machine at this address.
pub(super) fn own(cx: &Context, label: &str, address: &str) {
    let label: crate::config::Label = label.parse().unwrap();
    cx.record(&MachineDeployed {
        label: label.clone(),
        provider: "local".to_owned(),
        address: Some(address.to_owned()),
        node_key: None,
        owner: B64(cx.keyring().unwrap().identity_public()),
        cover: None,
        dir: None,
        detail: serde_json::Map::new(),
    })
    .unwrap();
    claim(cx, &label, node_key());
}

pub(super) fn claim(cx: &Context, label: &crate::config::Label, key: [u8; 32]) {
    let (label, node_key) = (label.clone(), B64(key));
    let claimed = MachineClaimed { label, node_key, address: None, seed_source: "local".to_owned(), evidence: "none".to_owned() };
    cx.record(&claimed).unwrap();
}

/// An invite from this home to its machine.
pub(super) fn request(node: &str, name: &str) -> super::invite::Request {
    super::invite::Request {
        node: node.parse().unwrap(),
        name: name.parse().unwrap(),
        lifetime: std::time::Duration::from_secs(86_400),
        mode: crate::token::Mode::Once,
        limits: Limits::default(),
        scope: crate::token::Scope::default(),
        lease: None,
        delegable: 0,
        any_node: false,
        addresses: Vec::new(),
        transports: None,
        restricted: false,
        evidence: None,
    }
}

/// A server that answers each connection with what it was sent until then, in upper case.
pub(super) async fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = vec![0; 65536];
                loop {
                    match tcp.read(&mut buffer).await {
                        Ok(n) if n > 0 => tcp.write_all(&buffer[..n].to_ascii_uppercase()).await.unwrap(),
                        _ => return,
                    }
                }
            });
        }
    });
    address
}

/// A way into the Tor network that no test here goes.
pub(super) fn no_tor() -> Arc<Tor> {
    Tor::new(Places::within(std::path::Path::new("/nowhere")), crate::tor::Settings::default(), crate::tor::Role::Client)
}

/// As [`super::invite::invite`], for invites that need no node.
pub(super) fn invite(cx: &Context, request: &super::invite::Request, dry_run: bool) -> Result<Invited> {
    futures::executor::block_on(super::invite::invite(cx, request, dry_run))
}

/// As [`super::accept::accept`], without Tor.
pub(super) async fn accept(cx: &Context, invite: &Invite, name: Option<&Label>) -> Result<Exit> {
    super::accept::accept(cx, invite, name, &Net { tor: &no_tor(), progress: &Silent, retry: &|_, _| () }).await
}
