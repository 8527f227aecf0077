//! Hetzner Cloud through the real binary, against a double of its API: what is made, shown before, and left behind (nothing).

use super::home::{Home, Ran, program};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

const TOKEN: &str = "token-that-writes";
/// What is left when a machine was destroyed: what others have, and the image.
const KINDS: [&str; 5] = ["servers", "firewalls", "primary_ips", "ssh_keys", "images"];

/// A double of the API, which ends with the test.
struct Cloud {
    child: Child,
    address: String,
    _state: tempfile::TempDir,
}

impl Cloud {
    fn start() -> Cloud {
        let state = tempfile::tempdir().unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/double/hetzner.py");
        let mut command = Command::new("python3");
        command.arg(script).arg("--state").arg(state.path().join("double")).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(reference) = std::env::var_os("PORTDISTRICT_HETZNER_OPENAPI") {
            command.arg("--openapi").arg(reference);
        }
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let address = said["control"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
        let cloud = Cloud { child, address, _state: state };
        cloud.set(&json!({ "action_polls": 1, "machine": [program(), "node", "run", "--config", "{config}"] }));
        cloud.post("foreign", &json!({}));
        cloud
    }

    /// One of the double's controls.
    fn control(&self, method: &str, verb: &str, body: &Value) -> Value {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let body = body.to_string();
        write!(
            stream,
            "{method} /_double/{verb} HTTP/1.1\r\nHost: double\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
        serde_json::from_str(body).unwrap()
    }

    fn get(&self, verb: &str) -> Value {
        self.control("GET", verb, &Value::Null)
    }

    fn post(&self, verb: &str, body: &Value) -> Value {
        self.control("POST", verb, body)
    }

    fn set(&self, settings: &Value) {
        self.post("settings", settings);
    }

    /// A home whose provider is this double, with an image of its own there.
    fn home(&self) -> Home {
        let home = Home::new().with_variable("HCLOUD_ENDPOINT", format!("http://{}/v1", self.address)).with_variable("HCLOUD_TOKEN", TOKEN);
        let _ = home.line("init").ok();
        let settings = "[http]\ntimeout = \"1s\"\nattempts = 3\npause = \"0s\"\n";
        std::fs::write(home.path().join("config/config.toml"), settings).unwrap();
        let labels = json!({ "portdistrict": mark(&home), "portdistrict-size": "cx23" });
        self.post("snapshot", &json!({ "description": "pd-0-1-0-0123456789ab", "labels": labels }));
        home
    }

    /// The requests since they were last forgotten, with … for numbers, each row of the same once.
    fn requests(&self) -> Vec<String> {
        let all = self.get("requests");
        let mut requests: Vec<String> = all.as_array().unwrap().iter().map(request_of).collect();
        requests.dedup();
        requests
    }

    /// Everything that is there, by kind, without what changes by itself.
    fn things(&self) -> BTreeMap<&'static str, Vec<Value>> {
        let state = self.get("state");
        KINDS
            .into_iter()
            .map(|kind| {
                (
                    kind,
                    state[kind]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|thing| json!({ "id": thing["id"], "name": thing["name"], "labels": thing["labels"] }))
                        .collect(),
                )
            })
            .collect()
    }

    fn is_as_before(&self, before: &BTreeMap<&'static str, Vec<Value>>) -> bool {
        self.things() == *before
    }

    #[track_caller]
    fn has_no_violations(&self) {
        assert_eq!(self.get("violations"), json!([]));
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// `POST /servers/…/actions/poweron`.
fn request_of(request: &Value) -> String {
    let path = request["path"].as_str().unwrap().strip_prefix("/v1").unwrap().split('?').next().unwrap();
    let path: Vec<_> =
        path.split('/').map(|part| if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) { "…" } else { part }).collect();
    format!("{} {}", request["method"].as_str().unwrap(), path.join("/"))
}

/// The label that this owner's things bear.
fn mark(home: &Home) -> String {
    home.line("identity show --json").json()["id"].as_str().unwrap().to_lowercase()
}

/// The requests that a dry run shows.
fn shown(dry_run: &Value) -> Vec<String> {
    let would = dry_run["would"].as_array().unwrap().iter().map(|line| line.as_str().unwrap());
    let requests = would.filter(|line| ["GET ", "POST ", "DELETE "].iter().any(|method| line.starts_with(method)));
    requests.map(|line| line.split_once(": ").unwrap().0.to_owned()).collect()
}

const DEPLOY: &str = "machine deploy --on hetzner --label home";
const DESTROY: &str = "portdistrict machine destroy home --yes";

#[test]
fn a_server_is_deployed_as_the_dry_run_said_and_destroyed_without_a_trace() {
    let cloud = Cloud::start();
    let home = cloud.home();
    let before = cloud.things();
    for more in ["", " --static-address"] {
        let dry_run = home.line(&format!("{DEPLOY}{more} --dry-run --json")).json();
        assert!(cloud.is_as_before(&before));
        let words = dry_run["would"].to_string();
        assert!(words.contains("EUR 4.15 a month") && words.contains("no hardware there proves"), "{words}");
        cloud.control("DELETE", "requests", &Value::Null);
        let deployed = home.line(&format!("{DEPLOY}{more} -vv"));
        assert!(!deployed.stderr.contains(TOKEN) && deployed.stderr.contains("POST 127.0.0.1/v1/servers: 201"), "{deployed}");
        assert!(deployed.stderr.contains("EUR 4.15 a month"), "{deployed}");
        let _ = deployed.ok();
        assert_eq!(cloud.requests(), shown(&dry_run));
        let claimed = home.line("machine claim home --json").json();
        assert_eq!(claimed["rung"], "pinned-key");
        let listed = home.line("machine list --json").json();
        assert_eq!(
            (listed["machines"][0]["state"].as_str(), listed["machines"][0]["provider"].as_str()),
            (Some("running"), Some("hetzner"))
        );
        let checks = home.line("machine doctor home --on hetzner").ok();
        assert!(checks.contains("it may read and write"), "{checks}");
        let dry_run = home.line("machine destroy home --dry-run --json").json();
        let things = if more.is_empty() { 2 } else { 3 };
        assert_eq!(
            dry_run["would"].as_array().unwrap().iter().filter(|line| line.as_str().unwrap().contains(" at hetzner")).count(),
            things
        );
        let _ = home.line("machine destroy home --yes").ok();
        assert!(cloud.is_as_before(&before), "{:?}", cloud.things());
    }
    cloud.has_no_violations();
}

#[test]
fn a_server_that_was_switched_off_is_started_again_and_one_that_is_gone_is_seen_to_be() {
    let cloud = Cloud::start();
    let home = cloud.home();
    let before = cloud.things();
    let _ = home.line(DEPLOY).ok();
    let node = home.line("machine claim home --json").json()["node"].clone();
    let server = |verb: &str| {
        let id =
            cloud.get("state")["servers"].as_array().unwrap().iter().find(|server| server["name"] != "other-server").unwrap()["id"].clone();
        let mut stream = TcpStream::connect(&cloud.address).unwrap();
        let (method, path) =
            if verb == "delete" { ("DELETE", format!("/v1/servers/{id}")) } else { ("POST", format!("/v1/servers/{id}/actions/{verb}")) };
        write!(stream, "{method} {path} HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
        cloud.set(&json!({ "action_ms": 0 }));
        cloud.get("state");
    };
    server("poweroff");
    assert_eq!(home.line("machine show home --json").json()["state"], "stopped");
    let _ = home.line("machine doctor home --on hetzner").fails(6);
    let found = home.line("machine reconnect home --json").json();
    assert_eq!((&found["node"], found["state"].as_str()), (&node, Some("running")));
    server("delete");
    assert_eq!(home.line("machine show home --json").json()["state"], "gone");
    // Its firewall is still there, and goes with the record.
    let _ = home.line("machine destroy home --yes").ok();
    assert!(cloud.is_as_before(&before), "{:?}", cloud.things());
    cloud.has_no_violations();
}

#[test]
fn refusals_say_what_to_do() {
    let cloud = Cloud::start();
    let home = cloud.home();
    let before = cloud.things();
    let none = Home::new();
    let _ = none.line("init").ok();
    let said = none.line(DEPLOY).fails(6);
    assert!(said.contains("HCLOUD_TOKEN"), "{said}");

    cloud.set(&json!({ "tokens": { TOKEN: "ro" } }));
    let said = home.line(DEPLOY).fails(6);
    assert!(said.contains("the token may only read") && said.contains("Read & Write"), "{said}");
    let said = home.line("machine doctor --on hetzner").fails(6);
    assert!(said.contains("permission"), "{said}");
    cloud.set(&json!({ "tokens": {} }));
    let said = home.line(DEPLOY).fails(6);
    assert!(said.contains("does not know this token") && !said.contains(TOKEN), "{said}");
    cloud.set(&json!({ "tokens": { TOKEN: "rw" } }));

    cloud.set(&json!({ "quota": { "servers": 1 } }));
    let said = home.line(DEPLOY).fails(6);
    assert!(said.contains("as many of these as Hetzner allows") && said.contains("Limits"), "{said}");
    cloud.set(&json!({ "quota": {}, "sold_out": ["cx23"] }));
    let said = home.line(DEPLOY).fails(6);
    assert!(said.contains("no cx23 in fsn1 now"), "{said}");
    cloud.set(&json!({ "sold_out": [], "failing_actions": ["create_server"] }));
    let said = home.line(DEPLOY).fails(1);
    assert!(said.contains("Action failed"), "{said}");

    for (more, expected) in [
        (" --image 77", "no image \"77\""),
        (" --size cx99", "no size \"cx99\""),
        (" --zone mars1", "no cx23 in mars1"),
        (" --confidential", "no confidential machines"),
        (" --seed sealed", "no TPM"),
        (" --project p", "the token says which project"),
        (" --claim-by-anyone", "claimed by the one who deployed it"),
    ] {
        let ran = home.line(&format!("{DEPLOY}{more}"));
        assert!(ran.stderr.contains(expected) && ran.stderr.contains("hint: ") && ran.status != Some(0), "{ran}");
    }
    assert!(cloud.is_as_before(&before), "{:?}", cloud.things());
    cloud.has_no_violations();
}

#[test]
fn a_token_in_a_file_has_to_be_private() {
    let cloud = Cloud::start();
    let home = cloud.home().with_variable("HCLOUD_TOKEN", "");
    let file = home.work().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    std::fs::write(home.path().join("config/config.toml"), format!("[hetzner]\ntoken_file = {file:?}\n")).unwrap();
    let mode = |mode| std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    mode(0o644);
    let said = home.line("machine doctor --on hetzner").fails(6);
    assert!(said.contains("chmod"), "{said}");
    mode(0o600);
    let _ = home.line("machine doctor --on hetzner").ok();
}

#[test]
fn the_examples_in_help_run_here() {
    let cloud = Cloud::start();
    let home = cloud.home();
    net::image(&home.work().join("out"), b"a disk");
    let ran = super::examples::run_examples(&home, |script| script.contains("--on hetzner"));
    assert!(ran >= 2, "only {ran} examples");
    cloud.has_no_violations();
}

/// What is done to one request.
#[derive(Clone, Copy)]
struct Fault {
    name: &'static str,
    fault: &'static str,
    times: u32,
}

const fn fault(name: &'static str, fault: &'static str, times: u32) -> Fault {
    Fault { name, fault, times }
}

/// More often than anything is repeated.
const ALWAYS: u32 = 99;
const FAULTS: [Fault; 12] = [
    fault("killed before", "kill", 1),
    fault("killed after", "kill-after", 1),
    fault("403", "403", 1),
    fault("429", "429", 1),
    fault("429 on and on", "429", ALWAYS),
    fault("500", "500", 1),
    fault("500 on and on", "500", ALWAYS),
    fault("reply lost", "lost", 1),
    fault("reply always lost", "lost", ALWAYS),
    fault("silence", "silence", 1),
    fault("silence, done", "silence-after", 1),
    fault("silence for good", "silence-after", ALWAYS),
];

/// One call of a story.
#[derive(Clone)]
struct Call {
    request: String,
    method: String,
    /// The path as a regular expression.
    path: String,
    /// Which of those that are alike.
    nth: usize,
}

/// The calls of a story that went well, in their order.
fn calls(cloud: &Cloud) -> Vec<Call> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let requests = cloud.get("requests");
    let each = requests.as_array().unwrap().iter().map(|request| {
        let name = request_of(request);
        let nth = seen.entry(name.clone()).and_modify(|nth| *nth += 1).or_insert(1);
        let (method, path) = name.split_once(' ').unwrap();
        Call { method: method.to_owned(), path: format!("^/v1{}([?]|$)", path.replace('…', "[0-9]+")), nth: *nth, request: name.clone() }
    });
    each.collect()
}

/// Runs a command in which this call goes wrong.
fn run_with(cloud: &Cloud, home: &Home, line: &str, call: &Call, fault: Fault) -> Ran {
    let mut command = home.shell(&format!("read go; exec {line}"));
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let entry =
        json!({ "method": call.method, "path": call.path, "nth": call.nth, "times": fault.times, "fault": fault.fault, "pid": child.id() });
    cloud.post("faults", &json!([entry]));
    writeln!(child.stdin.take().unwrap(), "go").unwrap();
    let output = child.wait_with_output().unwrap();
    cloud.control("DELETE", "faults", &Value::Null);
    Ran::from_output(line, output)
}

fn outcome(ran: &Ran) -> String {
    match ran.status {
        Some(0) => "done".to_owned(),
        Some(status) => format!("status {status}"),
        None => "killed".to_owned(),
    }
}

/// Every fault at every call of a story. Then, by turns, it is run again or only undone: nothing may be left, and nothing of others touched.
fn every_fault_at_every_call(cloud: &Cloud, home: &Home, story: &Story, (lane, lanes): (usize, usize)) -> String {
    let shell = |line: &str| Ran::of(home.shell(line));
    let prepare = || story.prepare.iter().for_each(|line| assert_eq!(shell(line).status, Some(0)));
    let before = cloud.things();
    prepare();
    cloud.control("DELETE", "requests", &Value::Null);
    let _ = shell(&story.line).ok();
    let calls = calls(cloud);
    let _ = shell(&story.undo);
    let mut table = String::new();
    let cases = calls
        .iter()
        .flat_map(|call| FAULTS.into_iter().filter(|fault| fault.times == 1 || call.method != "GET").map(move |fault| (call, fault)));
    for (index, (call, fault)) in cases.enumerate().filter(|(index, _)| index % lanes == lane) {
        prepare();
        let ran = run_with(cloud, home, &story.line, call, fault);
        let shown = format!("{} {}: {ran}", call.request, fault.name);
        assert!(ran.status != Some(101), "{shown}");
        let left = if cloud.is_as_before(&before) { "nothing" } else { "something" };
        if story.prepare.is_none() && ran.status != Some(0) && fault.times == 1 && !fault.fault.starts_with("kill") {
            assert_eq!(left, "nothing", "{shown}");
        }
        let mut then = "undone";
        if ran.status != Some(0) && index % 2 == 0 {
            let again = shell(&story.line);
            // A machine whose end came to be recorded is not there to be ended again.
            assert!(again.status == Some(0) || (story.prepare.is_some() && again.status == Some(3)), "{shown}{again}");
            then = "run again, undone";
        }
        let undone = shell(&story.undo);
        assert!(matches!(undone.status, Some(0 | 3)), "{shown}{undone}");
        assert!(cloud.is_as_before(&before), "{shown}{undone}{:?}", cloud.things());
        let nth = if call.nth > 1 { format!(" ({}.)", call.nth) } else { String::new() };
        let request = format!("{}{nth}", call.request);
        writeln!(table, "{index:4} {request:44} {:18} {:10} left {left:10} {then}: nothing left", fault.name, outcome(&ran)).unwrap();
    }
    cloud.has_no_violations();
    table
}

/// A command and what undoes it.
struct Story {
    /// What has to be there before.
    prepare: Option<String>,
    line: String,
    undo: String,
}

/// As many doubles at once as make sense; the rows of their tables in order.
#[expect(clippy::print_stdout, reason = "the table is what the test tells")]
fn side_by_side(lanes: usize, work: impl Fn(&Cloud, (usize, usize)) -> String + Sync) {
    let rows = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for lane in 0..lanes {
            let (work, rows) = (&work, &rows);
            scope.spawn(move || {
                let table = work(&Cloud::start(), (lane, lanes));
                rows.lock().unwrap().extend(table.lines().map(str::to_owned));
            });
        }
    });
    let mut rows = rows.into_inner().unwrap();
    rows.sort();
    println!("call × fault × outcome\n{}", rows.join("\n"));
}

#[test]
fn whatever_happens_at_any_call_of_a_deploy_nothing_is_left_behind() {
    let line = format!("portdistrict {DEPLOY} --static-address");
    let story = Story { prepare: None, line, undo: DESTROY.to_owned() };
    side_by_side(4, |cloud, part| every_fault_at_every_call(cloud, &cloud.home(), &story, part));
}

#[test]
fn whatever_happens_at_any_call_of_a_destroy_the_next_one_ends_it() {
    let prepare = Some(format!("portdistrict {DEPLOY} --static-address"));
    let story = Story { prepare, line: DESTROY.to_owned(), undo: DESTROY.to_owned() };
    side_by_side(4, |cloud, part| every_fault_at_every_call(cloud, &cloud.home(), &story, part));
}

/// What needs a rescue system: a real sshd on port 22 of a loopback address, so these tests run as root.
mod net {
    use super::{Cloud, Home, Story, TOKEN, every_fault_at_every_call, json, side_by_side};
    use crate::story::{blob, try_curl};
    use crate::web::{GREETING, Web};
    use portdistrict::image::Manifest;
    use sha2::{Digest, Sha256};
    use std::path::Path;

    const NAME: &str = "pd-9-8-7-abababababab";

    /// An image as far as publishing looks at it.
    pub(super) fn image(folder: &Path, bytes: &[u8]) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("disk.raw"), bytes).unwrap();
        let sha256: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let file = json!({ "name": "disk.raw", "size": bytes.len(), "sha256": sha256 });
        let manifest = json!({
            "portdistrict_image": Manifest::VERSION, "version": "9.8.7", "inputs": [], "source_date_epoch": 1, "kernel_release": "6", "command_line": "",
            "modules": [], "uki_authenticode": "ab".repeat(32), "kernel_authenticode": "cd".repeat(32), "sections": [], "pcr": {},
            "disk": file, "archive": file, "reproduce": "",
        });
        std::fs::write(folder.join("image.json"), manifest.to_string()).unwrap();
    }

    fn bytes() -> Vec<u8> {
        (0..700_001u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    const PUBLISH: &str = "machine publish image --on hetzner";
    const REMOVE: &str = "machine publish --on hetzner --remove pd-9-8-7-abababababab --yes";

    fn home(cloud: &Cloud) -> Home {
        let home = cloud.home();
        image(&home.work().join("image"), &bytes());
        home
    }

    #[test]
    #[ignore = "needs root: a rescue system answers on port 22"]
    fn an_image_is_written_in_the_rescue_system_and_kept_as_a_snapshot() {
        let cloud = Cloud::start();
        let home = home(&cloud);
        let before = cloud.things();
        let dry_run = home.line(&format!("{PUBLISH} --dry-run --json")).json();
        assert!(cloud.is_as_before(&before));
        cloud.control("DELETE", "requests", &super::Value::Null);
        let published = home.line(&format!("{PUBLISH} -vv --json"));
        assert!(!published.stdout.contains(TOKEN) && !published.stderr.contains(TOKEN));
        assert_eq!(published.json()["already"], false);
        assert_eq!(cloud.requests(), super::shown(&dry_run));
        let state = cloud.get("state");
        let image = state["images"].as_array().unwrap().iter().find(|image| image["description"] == NAME).unwrap();
        let snapshot = std::fs::read(image["_file"].as_str().unwrap()).unwrap();
        assert_eq!(&snapshot[..700_001], bytes());
        assert_eq!((&image["status"], &image["labels"]["portdistrict-size"]), (&json!("available"), &json!("cx23")));

        // The same digest a second time does nothing; a machine begins from it.
        assert_eq!(home.line(&format!("{PUBLISH} --json")).json()["already"], true);
        let listed = home.line("machine publish --on hetzner --list --json").json();
        assert_eq!(listed["images"].as_array().unwrap().last().unwrap()["name"], NAME);
        let web = Web::start();
        let page = web.address;
        let _ = home.line(&format!("{} --image {NAME} --allow {page}", super::DEPLOY)).ok();
        let _ = home.line("machine claim home").ok();
        // A server there can prove nothing, and says so; its log is asked of itself.
        let shown = home.line("machine attest home --json").fails(4);
        assert!(shown.contains("no_evidence"), "{shown}");
        let log = home.line("machine logs home").ok();
        assert!(log.contains(" ready "), "{log}");
        let invite = blob(&home.line("exit invite --node home --for anna").ok());
        assert_eq!(try_curl(&Home::new(), &invite, &format!("http://{page}/")).ok(), GREETING);
        let _ = home.line("machine destroy home --yes").ok();
        // The older one, which was there before, goes first; then there is none.
        let pruned = home.line("machine publish --on hetzner --prune --keep 1 --yes --json").json();
        assert_eq!(pruned["removed"], json!(["pd-0-1-0-0123456789ab"]));
        let pruned = home.line(&format!("{REMOVE} --json")).json();
        assert_eq!(pruned["removed"], json!([NAME]));
        let before: super::BTreeMap<_, Vec<super::Value>> = before
            .into_iter()
            .map(|(kind, mut things)| {
                things.retain(|thing| kind != "images" || thing["labels"]["team"] == "other");
                (kind, things)
            })
            .collect();
        assert!(cloud.is_as_before(&before), "{:?}", cloud.things());

        // A size that is started by BIOS cannot start an image: that is seen before a snapshot is paid for.
        let said = home.line(&format!("{PUBLISH} --size cpx22")).fails(6);
        assert!(said.contains("started by BIOS"), "{said}");
        // What is not what its description says does not become an image either.
        std::fs::write(home.work().join("image/disk.raw"), b"something else").unwrap();
        let said = home.line(PUBLISH).fails(4);
        assert!(said.contains("did not arrive as image.json describes it"), "{said}");
        assert!(cloud.is_as_before(&before), "{:?}", cloud.things());
        // Its key went with it.
        assert!(!home.path().join(format!("cache/hetzner/{NAME}")).exists());
        cloud.has_no_violations();
    }

    #[test]
    #[ignore = "needs root: a rescue system answers on port 22"]
    fn whatever_happens_at_any_call_of_a_publishing_nothing_is_left_behind() {
        let story = Story { prepare: None, line: format!("portdistrict {PUBLISH}"), undo: format!("portdistrict {REMOVE}") };
        side_by_side(4, |cloud, part| every_fault_at_every_call(cloud, &home(cloud), &story, part));
    }
}
