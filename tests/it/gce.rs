//! Google Compute Engine through the real binary, against a double of its API: what is made, shown before, and left behind (nothing).

use super::home::{Home, Ran, program};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

const ZONE: &str = "europe-west4-a";
const DEPLOY: &str = "machine deploy --on gce --label home";
const DESTROY: &str = "machine destroy home --yes";
const KINDS: [&str; 4] = ["instances", "disks", "firewalls", "addresses"];
/// Everything that `machine publish` gives an image.
const FEATURES: [&str; 3] = ["UEFI_COMPATIBLE", "GVNIC", "SEV_SNP_CAPABLE"];
/// An archive with the head of a disk of 1 GiB: as much of it as Compute Engine's double looks at.
const ARCHIVE: &str = "import io, gzip, sys, tarfile
entry = tarfile.TarInfo('disk.raw')
entry.size = 1 << 30
sys.stdout.buffer.write(gzip.compress(entry.tobuf(tarfile.GNU_FORMAT), mtime=0))";

/// A double of the API, which ends with the test.
struct Cloud {
    child: Child,
    told: Value,
    _state: tempfile::TempDir,
}

impl Cloud {
    /// With an image in the family, and with what others have in the same project.
    fn start() -> Cloud {
        let cloud = Cloud::bare();
        cloud.publish("pd-0-1-0-0123456789ab", &FEATURES);
        cloud.foreign("other", &json!({}));
        cloud.foreign("others-portdistrict", &json!({"portdistrict": "somebody", "portdistrict-machine": "home"}));
        let rule = json!({"name": "other", "allowed": [{"IPProtocol": "tcp", "ports": ["22"]}], "sourceRanges": ["0.0.0.0/0"]});
        cloud.api("POST", "compute/v1/projects/{project}/global/firewalls", Some(&rule));
        cloud
    }

    fn bare() -> Cloud {
        let state = tempfile::tempdir().unwrap();
        let mut command = Command::new("python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/double/google.py")).arg("--state").arg(state.path());
        // Google's own description of its interfaces, to which everything is held where it is at hand.
        if let Some(clients) = std::env::var_os("PORTDISTRICT_GOOGLE_DISCOVERY") {
            command.arg("--discovery").arg(clients);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let cloud = Cloud { child, told: serde_json::from_str(&line).unwrap(), _state: state };
        cloud.set(&json!({"operation_ms": 5, "program": program()}));
        cloud
    }

    fn told(&self, name: &str) -> &str {
        self.told[name].as_str().unwrap()
    }

    /// One request, with the token that the double gave; `{project}` stands for its project.
    fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let body = body.map(Value::to_string).unwrap_or_default();
        self.send(method, &path.replace("{project}", self.told("project")), "application/json", body.as_bytes())
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Value {
        let mut stream = TcpStream::connect(self.told("url").strip_prefix("http://").unwrap()).unwrap();
        let head = format!(
            "{method} /{path} HTTP/1.1\r\nHost: double\r\nConnection: close\r\nAuthorization: Bearer {}\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n\r\n",
            self.told("token"),
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 20"), "{method} {path}: {answer}");
        if body.is_empty() { Value::Null } else { serde_json::from_str(body).unwrap() }
    }

    /// One of the double's controls.
    fn get(&self, verb: &str) -> Value {
        self.api("GET", &format!("_double/{verb}"), None)
    }

    fn set(&self, settings: &Value) {
        self.api("POST", "_double/settings", Some(settings));
    }

    fn forget_requests(&self) {
        self.api("DELETE", "_double/requests", None);
    }

    /// Waits until everything that was begun is done.
    fn settle(&self) {
        while self.get("state")["compute"]["operations_running"] != json!([]) {}
    }

    fn publish(&self, name: &str, features: &[&str]) {
        let archive = Command::new("python3").args(["-c", ARCHIVE]).output().unwrap().stdout;
        let bucket = format!("archive-of-{name}");
        self.api("POST", "storage/v1/b?project={project}", Some(&json!({"name": bucket})));
        let upload = format!("upload/storage/v1/b/{bucket}/o?uploadType=media&name=image.tar.gz");
        self.send("POST", &upload, "application/gzip", &archive);
        let features: Vec<Value> = features.iter().map(|feature| json!({"type": feature})).collect();
        let source = format!("https://storage.googleapis.com/{bucket}/image.tar.gz");
        let image = json!({"name": name, "family": "portdistrict", "rawDisk": {"source": source}, "guestOsFeatures": features});
        self.api("POST", "compute/v1/projects/{project}/global/images", Some(&image));
        self.settle();
    }

    /// An instance of somebody else's.
    fn foreign(&self, name: &str, labels: &Value) {
        let instance = json!({
            "name": name, "machineType": format!("zones/{ZONE}/machineTypes/e2-micro"), "labels": labels,
            "disks": [{"boot": true, "autoDelete": true, "initializeParams": {"sourceImage": "global/images/family/portdistrict"}}],
            "networkInterfaces": [{"network": "global/networks/default"}],
        });
        self.api("POST", &format!("compute/v1/projects/{{project}}/zones/{ZONE}/instances"), Some(&instance));
        self.settle();
    }

    /// A home whose provider is this double.
    fn home(&self) -> Home {
        self.home_that_waits("20s")
    }

    /// The same, with so much patience for one answer.
    fn home_that_waits(&self, timeout: &str) -> Home {
        let home = Home::new()
            .with_variable("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", self.told("compute"))
            .with_variable("CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDRESOURCEMANAGER", self.told("url"))
            .with_variable("GOOGLE_APPLICATION_CREDENTIALS", self.told["credentials"]["service-account"].as_str().unwrap())
            .with_variable("GOOGLE_CLOUD_PROJECT", self.told("project"))
            .with_variable("CLOUDSDK_COMPUTE_ZONE", ZONE);
        let _ = home.line("init").ok();
        let settings = format!("[http]\ntimeout = \"{timeout}\"\nattempts = 3\npause = \"0s\"\n");
        std::fs::write(home.path().join("config/config.toml"), settings).unwrap();
        home
    }

    /// Everything that is there, by kind, without what changes by itself.
    fn things(&self) -> BTreeMap<&'static str, Vec<Value>> {
        self.settle();
        let state = self.get("state");
        let of_kind = |kind: &str| match &state["compute"][kind] {
            Value::Object(things) => things.iter().map(|(path, thing)| json!([path, thing["labels"], thing["description"]])).collect(),
            _ => Vec::new(),
        };
        KINDS.into_iter().map(|kind| (kind, of_kind(kind))).collect()
    }

    /// The one of a kind that the machine `home` has.
    fn ours(&self, kind: &str) -> Value {
        let state = self.get("state");
        let mut things = state["compute"][kind].as_object().into_iter().flatten();
        things.find(|(path, _)| path.contains("/pd-home-")).map(|(_, thing)| thing.clone()).unwrap_or_default()
    }

    /// The requests to Compute Engine since they were last forgotten, as a dry run shows them; rows of the same once.
    fn requests(&self) -> Vec<String> {
        let all = self.get("requests");
        let mut lines: Vec<String> = all.as_array().unwrap().iter().filter_map(|request| self.in_words(request)).collect();
        lines.dedup();
        lines
    }

    /// A request with words in braces for what nobody could know before.
    fn in_words(&self, request: &Value) -> Option<String> {
        let path = request["path"].as_str().unwrap().strip_prefix("/compute/v1/")?;
        let mut path = veil(path, "requestId=", |c| c.is_ascii_hexdigit() || c == '-', "{uuid}");
        path = veil(&path, "/operations/", |c| c != '/', "{operation}");
        let mut line = format!("{} {}{path}", request["method"].as_str().unwrap(), self.told("compute"));
        if !request["body"].is_null() {
            let mut body = request["body"].clone();
            if let Some(config) = body.pointer_mut("/metadata/items/0/value") {
                let text = veil(config.as_str().unwrap(), "\"cover\":\"", |c| c != '"', "{bootstrap key}");
                *config = veil(&text, "\"made_at\":", |c| c.is_ascii_digit(), "\"{time}\"").into();
            }
            if let Some(address) = body.pointer_mut("/networkInterfaces/0/accessConfigs/0/natIP") {
                *address = "{address}".into();
            }
            if let Some(image) = body.pointer_mut("/disks/0/initializeParams/sourceImage") {
                *image = veil(image.as_str().unwrap(), "/images/", |c| c != '/', "{image}").into();
            }
            write!(line, " {body}").unwrap();
        }
        Some(veil(&line, "pd-home-", |c| c.is_ascii_alphanumeric(), "{random}"))
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

/// Replaces what follows a word, wherever that stands.
fn veil(text: &str, word: &str, of: impl Fn(char) -> bool, with: &str) -> String {
    let mut parts = text.split(word);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.extend([word, with, part.trim_start_matches(&of)]);
    }
    out
}

/// The requests that a dry run shows; the last one goes on with words.
fn shown(dry_run: &Value) -> Vec<String> {
    let would = dry_run["would"].as_array().unwrap().iter().map(|line| line.as_str().unwrap());
    let requests = would.filter(|line| ["GET ", "POST ", "DELETE "].iter().any(|method| line.starts_with(method)));
    requests.map(|line| line.split(", and on from there").next().unwrap().to_owned()).collect()
}

#[test]
fn a_machine_is_deployed_as_the_dry_run_said_and_destroyed_without_a_trace() {
    let cloud = Cloud::start();
    let home = cloud.home();
    let before = cloud.things();
    for more in ["", " --confidential --static-address --size n2d-standard-4"] {
        cloud.forget_requests();
        let dry_run = home.line(&format!("{DEPLOY}{more} --dry-run --json")).json();
        assert_eq!(cloud.get("requests"), json!([]), "a dry run asks nobody");
        let deployed = home.line(&format!("{DEPLOY}{more} -vv"));
        assert!(!deployed.stderr.contains("ya29.") && deployed.stderr.contains("/instances: 200"), "{deployed}");
        let _ = deployed.ok();
        assert_eq!(cloud.requests(), shown(&dry_run), "{more}");

        let instance = cloud.ours("instances");
        assert_eq!(instance["serviceAccounts"], json!([]));
        assert_eq!(instance["confidentialInstanceConfig"]["confidentialInstanceType"] == "SEV_SNP", !more.is_empty());
        assert_eq!(cloud.ours("addresses")["status"] == "IN_USE", !more.is_empty());
        let listed = home.line("machine list --json").json();
        let machine = &listed["machines"][0];
        let address = format!("{}:4433", instance["networkInterfaces"][0]["accessConfigs"][0]["natIP"].as_str().unwrap());
        assert_eq!(
            (machine["state"].as_str(), machine["provider"].as_str(), machine["address"].as_str()),
            (Some("unclaimed"), Some("gce"), Some(address.as_str()))
        );
        assert_eq!(listed["drift"], json!([]));
        assert_eq!(home.line("machine show home --json").json()["label"], "home");
        let log = home.line("machine logs home --lines 1").ok();
        assert_eq!(log.trim(), "PORTDISTRICT_STATE=ready");
        let checks = home.line("machine doctor home --on gce");
        assert!(checks.stdout.contains("instance") && checks.stdout.contains("runs"), "{checks}");

        let would = home.line("machine destroy home --dry-run --json").json()["would"].to_string();
        assert_eq!(would.matches(" at gce").count(), if more.is_empty() { 2 } else { 3 }, "{would}");
        let _ = home.line(DESTROY).ok();
        assert_eq!(cloud.things(), before);
        let left = home.line("machine list --json").json();
        assert_eq!((&left["machines"], &left["drift"]), (&json!([]), &json!([])));
    }
    cloud.has_no_violations();
}

#[test]
fn what_the_project_really_has_is_told_beside_the_record() {
    let cloud = Cloud::start();
    let home = cloud.home();
    let before = cloud.things();
    let _ = home.line(DEPLOY).ok();
    let instance = cloud.ours("instances");
    let (name, path) = (instance["name"].as_str().unwrap(), format!("compute/v1/projects/{{project}}/zones/{ZONE}/instances"));

    cloud.api("POST", &format!("{path}/{name}/stop"), None);
    cloud.settle();
    let listed = home.line("machine list --json").json();
    assert_eq!(listed["machines"][0]["state"], "stopped", "{listed}");

    // One of another device's that this one never heard of.
    cloud.foreign("pd-attic-abcdef", &json!({"portdistrict": instance["labels"]["portdistrict"], "portdistrict-machine": "attic"}));
    let listed = home.line("machine list").ok();
    assert!(listed.contains("pd-attic-abcdef stands there under your mark, and is not in this ledger"), "{listed}");
    cloud.api("DELETE", &format!("{path}/pd-attic-abcdef"), None);

    cloud.api("DELETE", &format!("{path}/{name}"), None);
    cloud.settle();
    let listed = home.line("machine list --json").json();
    assert_eq!(listed["machines"][0]["state"], "gone", "{listed}");
    assert!(listed["drift"].to_string().contains("was made, and is gone"), "{listed}");
    let _ = home.line(DESTROY).ok();
    assert_eq!(cloud.things(), before);
    cloud.has_no_violations();
}

#[test]
fn what_no_longer_bears_the_mark_is_left_alone() {
    let cloud = Cloud::start();
    let home = cloud.home();
    let before = cloud.things();
    let _ = home.line(DEPLOY).ok();
    let instance = cloud.ours("instances");
    let path = format!("compute/v1/projects/{{project}}/zones/{ZONE}/instances/{}", instance["name"].as_str().unwrap());
    let relabel = |labels: &Value| {
        let fingerprint = cloud.ours("instances")["labelFingerprint"].clone();
        cloud.api("POST", &format!("{path}/setLabels"), Some(&json!({"labels": labels, "labelFingerprint": fingerprint})));
        cloud.settle();
    };
    relabel(&json!({"portdistrict": "somebody-else"}));
    let said = home.line(DESTROY).fails(1);
    assert!(said.contains("does not bear your mark any more"), "{said}");
    assert_eq!(cloud.ours("instances")["name"], instance["name"]);
    assert_eq!(cloud.ours("firewalls"), Value::Null, "the rest is removed all the same");
    relabel(&instance["labels"]);
    let _ = home.line(DESTROY).ok();
    assert_eq!(cloud.things(), before);
}

#[test]
fn refusals_say_what_to_do() {
    let cloud = Cloud::start();
    let home = cloud.home();
    let before = cloud.things();
    for (permission, more) in [
        ("compute.images.getFromFamily", ""),
        ("compute.firewalls.create", ""),
        ("compute.instances.create", ""),
        ("compute.addresses.create", " --static-address"),
    ] {
        cloud.set(&json!({"deny": [permission]}));
        let said = home.line(&format!("{DEPLOY}{more}")).fails(6);
        assert!(said.contains(permission) && said.contains("gcloud iam roles update"), "{said}");
    }
    cloud.set(&json!({"deny": ["compute.instances.create", "compute.firewalls.delete"]}));
    let checks = home.line("machine doctor --on gce --json");
    assert!(checks.stdout.contains("missing: compute.firewalls.delete, compute.instances.create"), "{checks}");
    cloud.set(&json!({"deny": []}));

    cloud.set(&json!({"quota": {"CPUS": 1}}));
    let said = home.line(DEPLOY).fails(6);
    assert!(said.contains("Quota 'CPUS' exceeded") && said.contains("ask Google for more CPUS"), "{said}");
    let checks = home.line("machine doctor --on gce --json");
    assert!(checks.stdout.contains("used up: CPUS"), "{checks}");
    cloud.set(
        &json!({"quota": {}, "operation_errors": [{"type": "insert", "target": "/instances/", "code": "ZONE_RESOURCE_POOL_EXHAUSTED"}]}),
    );
    let said = home.line(DEPLOY).fails(5);
    assert!(said.contains("choose another --zone"), "{said}");
    cloud.set(
        &json!({"operation_errors": [], "serial": "PORTDISTRICT_VERSION=1\nPORTDISTRICT_FAILURE=no network\nPORTDISTRICT_HINT=look\n"}),
    );
    let said = home.line(DEPLOY).fails(1);
    assert!(said.contains("cannot go on: no network") && said.contains("hint: look"), "{said}");

    for (more, expected) in [
        (" --image pd-9", "there is no image pd-9"),
        (" --image out/disk", "no name of an image"),
        (" --size n2d-Standard", "no machine type"),
        (" --size e2-micro --confidential", "have no SEV-SNP"),
        (" --zone mars", "no zone of Google's"),
        (" --zone us-east9-b", "was not found"),
        (" --project MINE", "no project of Google's"),
        (" --seed measured", "covers Google's firmware alone"),
        (" --claim-by-anyone", "claimed by the one who deployed it"),
        (" --listen 127.0.0.1", "listens on the address that it gets"),
        (" --systemd", "by no systemd unit"),
    ] {
        let ran = home.line(&format!("{DEPLOY}{more}"));
        assert!(ran.stderr.contains(expected) && ran.stderr.contains("hint: ") && ran.status != Some(0), "{ran}");
    }
    cloud.publish("pd-plain", &["UEFI_COMPATIBLE"]);
    let said = home.line(&format!("{DEPLOY} --image pd-plain")).fails(6);
    assert!(said.contains("was published without GVNIC"), "{said}");
    assert_eq!(cloud.things(), before);
    cloud.has_no_violations();
}

#[test]
fn a_node_that_proves_nothing_is_handed_nothing() {
    let cloud = Cloud::start();
    // The node is this very program, as a process: it answers as a machine would, and has no vTPM.
    cloud.set(&json!({"machines": "process"}));
    let home = cloud.home();
    let before = cloud.things();
    let _ = home.line(&format!("{DEPLOY} --image pd-0-1-0-0123456789ab")).ok();
    let said = home.line("machine claim home").fails(4);
    assert!(said.contains("does not prove what is demanded of it"), "{said}");
    assert_eq!(home.line("machine show home --json").json()["state"], "unclaimed");
    let _ = home.line(DESTROY).ok();
    assert_eq!(cloud.things(), before);
}

#[test]
fn of_two_deploys_at_once_one_wins_and_the_other_takes_nothing_from_it() {
    let cloud = Cloud::start();
    cloud.set(&json!({"operation_ms": 200}));
    let home = cloud.home();
    let before = cloud.things();
    let children: Vec<_> = (0..2).map(|_| home.command(format!("{DEPLOY} --json").split(' ')).spawn().unwrap()).collect();
    let outputs: Vec<_> = children.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    assert_eq!(outputs.iter().filter(|output| output.status.success()).count(), 1, "{outputs:?}");
    let lost = outputs.iter().find(|output| !output.status.success()).unwrap();
    assert!(String::from_utf8_lossy(&lost.stderr).contains("\"exists\""), "{outputs:?}");
    assert_eq!(home.line("machine list --json").json()["drift"], json!([]));
    assert_eq!(cloud.things()["instances"].len(), before["instances"].len() + 1);
    let _ = home.line(DESTROY).ok();
    assert_eq!(cloud.things(), before);
}

#[test]
fn an_interrupted_deploy_takes_back_what_it_made() {
    let cloud = Cloud::start();
    cloud.set(&json!({"serial": "PORTDISTRICT_VERSION=1\nPORTDISTRICT_STATE=booting\n"}));
    let home = cloud.home();
    let before = cloud.things();
    let child = home.command(DEPLOY.split(' ')).spawn().unwrap();
    while cloud.ours("instances")["status"] != "RUNNING" {}
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert_eq!(cloud.things(), before);
    assert_eq!(home.line("machine list --json").json()["drift"], json!([]));
}

#[test]
fn a_machine_that_a_killed_deploy_left_is_told_anew_though_its_attributes_change_meanwhile() {
    let cloud = Cloud::start();
    let home = cloud.home();
    let before = cloud.things();
    let serial = Call { request: String::new(), method: "GET".to_owned(), path: "/serialPort".to_owned(), nth: 1 };
    let killed = run_with(&cloud, &home, DEPLOY, &serial, fault("killed", "kill", 1));
    assert_eq!(killed.status, None, "{killed}");
    let left = cloud.ours("instances");
    cloud.forget_requests();
    let told = Call { request: String::new(), method: "POST".to_owned(), path: "/setMetadata".to_owned(), nth: 1 };
    let again = run_with(&cloud, &home, DEPLOY, &told, fault("stale", "412", 2));
    assert_eq!(again.status, Some(0), "{again}");
    let found = cloud.ours("instances");
    assert_eq!(found["id"], left["id"], "the same machine");
    assert_ne!(found["metadata"]["items"], left["metadata"]["items"], "with the new bootstrap key");
    assert_eq!(found["metadata"]["items"].as_array().unwrap().len(), left["metadata"]["items"].as_array().unwrap().len());
    let requests = cloud.requests().join("\n");
    assert!(requests.contains("/setMetadata") && requests.contains("/reset"), "{requests}");
    let _ = home.line(DESTROY).ok();

    // Another machine than the one that was left is made anew.
    let killed = run_with(&cloud, &home, DEPLOY, &serial, fault("killed", "kill", 1));
    assert_eq!(killed.status, None, "{killed}");
    let left = cloud.ours("instances");
    let _ = home.line(&format!("{DEPLOY} --size e2-small")).ok();
    let found = cloud.ours("instances");
    assert!(found["id"] != left["id"] && found["machineType"].as_str().unwrap().ends_with("e2-small"), "{found}");
    let _ = home.line(DESTROY).ok();
    assert_eq!(cloud.things(), before);
    cloud.has_no_violations();
}

#[test]
fn what_is_not_seen_everywhere_at_once_is_waited_for() {
    let cloud = Cloud::start();
    let home = cloud.home();
    let before = cloud.things();
    cloud.set(&json!({"stale_reads": 2, "operation_polls": 3}));
    let _ = home.line(&format!("{DEPLOY} --static-address")).ok();
    let _ = home.line(DESTROY).ok();
    cloud.set(&json!({"operation_polls": null}));
    assert_eq!(cloud.things(), before);
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
    fault("403 on and on", "403", ALWAYS),
    fault("429", "429", 1),
    fault("429 on and on", "429", ALWAYS),
    fault("500", "500", 1),
    fault("500 on and on", "500", ALWAYS),
    fault("reply lost", "lost", 1),
    fault("reply always lost", "lost", ALWAYS),
    fault("silence", "silence", ALWAYS),
    fault("silence, done", "silence-after", ALWAYS),
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

/// The calls of a story that went well, in their order; the second and later looks at one thing are as the first.
fn calls(cloud: &Cloud) -> Vec<Call> {
    let mut seen: BTreeMap<String, Call> = BTreeMap::new();
    let (requests, mut all) = (cloud.get("requests"), Vec::new());
    for request in requests.as_array().unwrap() {
        let path = request["path"].as_str().unwrap().split('?').next().unwrap();
        let plain = veil(&veil(path, "/operations/", |c| c != '/', "…"), "pd-home-", |c| c.is_ascii_alphanumeric(), "…");
        let method = request["method"].as_str().unwrap().to_owned();
        let name = format!("{method} {}", plain.trim_start_matches("/compute/v1/projects/double-project/"));
        let call = Call { path: format!("^{}([?]|$)", plain.replace('…', "[^/]+")), method, nth: 1, request: name.clone() };
        if seen.insert(name, call.clone()).is_none() {
            all.push(call);
        }
    }
    all
}

/// Runs a command in which this call goes wrong.
fn run_with(cloud: &Cloud, home: &Home, line: &str, call: &Call, fault: Fault) -> Ran {
    let mut command = home.shell(&format!("read go; exec portdistrict {line}"));
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let entry =
        json!({"method": call.method, "path": call.path, "nth": call.nth, "times": fault.times, "fault": fault.fault, "pid": child.id()});
    cloud.api("POST", "_double/faults", Some(&json!([entry])));
    writeln!(child.stdin.take().unwrap(), "go").unwrap();
    let output = child.wait_with_output().unwrap();
    cloud.api("DELETE", "_double/faults", None);
    Ran::from_output(line, output)
}

fn outcome(ran: &Ran) -> String {
    match ran.status {
        Some(0) => "done".to_owned(),
        Some(status) => format!("status {status}"),
        None => "killed".to_owned(),
    }
}

/// Every fault at every call of a deploy, or of a destroy. Then, by turns, it is run again, or what is there is destroyed at once: nothing
/// may be left, and nothing of others touched.
fn every_fault_at_every_call(cloud: &Cloud, of_destroy: bool, (lane, lanes): (usize, usize)) -> String {
    let deploy = format!("{DEPLOY} --static-address");
    let line = if of_destroy { DESTROY } else { deploy.as_str() };
    let home = cloud.home_that_waits("1s");
    if of_destroy {
        let _ = home.line(&deploy).ok();
    }
    cloud.forget_requests();
    let _ = home.line(line).ok();
    let calls = calls(cloud);
    let _ = home.line(DESTROY);
    let before = cloud.things();
    let cases = calls.iter().flat_map(|call| FAULTS.map(|fault| (call.clone(), fault)));
    let mut table = String::new();
    for (index, (call, fault)) in cases.enumerate().filter(|(index, _)| index % lanes == lane) {
        if of_destroy {
            let _ = home.line(&deploy).ok();
        }
        let ran = run_with(cloud, &home, line, &call, fault);
        let shown = format!("{} {}: {ran}", call.request, fault.name);
        assert!(ran.status != Some(101), "{shown}");
        let left = if cloud.things() == before { "nothing" } else { "something" };
        if !of_destroy && ran.status != Some(0) && fault.times == 1 && !fault.fault.starts_with("kill") {
            assert_eq!(left, "nothing", "{shown}");
        }
        let mut then = "destroyed";
        if !of_destroy && ran.status != Some(0) && index % 2 == 0 {
            let again = home.line(&deploy);
            assert_eq!(again.status, Some(0), "{shown}{again}");
            then = "run again, destroyed";
        }
        let undone = home.line(DESTROY);
        assert!(matches!(undone.status, Some(0 | 3)), "{shown}{undone}");
        assert_eq!(cloud.things(), before, "{shown}{undone}");
        let (call, name) = (&call.request, fault.name);
        writeln!(table, "{index:4} {call:66} {name:18} {:10} left {left:10} {then}: nothing left", outcome(&ran)).unwrap();
    }
    cloud.has_no_violations();
    table
}

/// As many doubles at once as make sense; the rows of their tables in order.
#[expect(clippy::print_stdout, reason = "the table is what the test tells")]
fn side_by_side(of_destroy: bool) {
    const LANES: usize = 4;
    let rows = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let rows = &rows;
            scope.spawn(move || {
                let table = every_fault_at_every_call(&Cloud::start(), of_destroy, (lane, LANES));
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
    side_by_side(false);
}

#[test]
fn whatever_happens_at_any_call_of_a_destroy_the_next_one_finishes_it() {
    side_by_side(true);
}
