//! `machine publish` through the real binary, against a double of Google's clouds: what arrives, what is asked, what is left (nothing).

use super::home::{Home, Ran};
use super::story::{blob, try_curl};
use super::vm;
use super::web::{GREETING, Web};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PUBLISH: &str = "machine publish out --bucket images";
/// The most that is sent at once, and so the most that an interruption can cost.
const PIECE: u64 = 16 * 1024 * 1024;
/// An archive whose disk is as large as it should be, and whose bytes nobody can compress: size, seed, file.
const ARCHIVE: &str = "import gzip, io, random, sys, tarfile
size, seed = int(sys.argv[1]), int(sys.argv[2])
entry = tarfile.TarInfo('disk.raw')
entry.size = 1 << 30
with gzip.GzipFile(sys.argv[3], 'wb', compresslevel=0, mtime=0) as file:
    file.write(entry.tobuf(tarfile.GNU_FORMAT))
    noise = random.Random(seed)
    while size > 0:
        file.write(noise.randbytes(min(size, 1 << 20)))
        size -= 1 << 20
";

/// The double, which ends with the test.
struct Cloud {
    child: Child,
    told: Value,
    state: tempfile::TempDir,
}

impl Cloud {
    fn start() -> Cloud {
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
        let cloud = Cloud { child, told: serde_json::from_str(&line).unwrap(), state };
        cloud.ask("POST", "_double/settings", Some(&json!({"operation_ms": 5})));
        cloud.ask("POST", "storage/v1/b?project=double-project", Some(&json!({"name": "images"})));
        cloud
    }

    fn told(&self, name: &str) -> &str {
        self.told[name].as_str().unwrap()
    }

    /// One request, with the token that the double gave.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let mut stream = TcpStream::connect(self.told("url").strip_prefix("http://").unwrap()).unwrap();
        let body = body.map(Value::to_string).unwrap_or_default();
        write!(
            stream,
            "{method} /{path} HTTP/1.1\r\nHost: double\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.told("token"),
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 20"), "{method} {path}: {answer}");
        if body.is_empty() { Value::Null } else { serde_json::from_str(body).unwrap() }
    }

    fn get(&self, verb: &str) -> Value {
        self.ask("GET", &format!("_double/{verb}"), None)
    }

    fn forget(&self) {
        self.ask("DELETE", "_double/requests", None);
        self.ask("DELETE", "_double/faults", None);
    }

    fn fault(&self, faults: &Value) {
        self.ask("POST", "_double/faults", Some(faults));
    }

    /// What was asked of Compute and Storage, each request as `METHOD /path` and its body.
    fn asked(&self) -> Vec<(String, Value)> {
        let requests = self.get("requests");
        let of_clouds = |entry: &&Value| {
            entry["path"].as_str().unwrap().contains("/v1/") && !entry["path"].as_str().unwrap().ends_with("/b?project=double-project")
        };
        let shown =
            |entry: &Value| (format!("{} {}", entry["method"].as_str().unwrap(), entry["path"].as_str().unwrap()), entry["body"].clone());
        requests.as_array().unwrap().iter().filter(of_clouds).map(shown).collect()
    }

    fn objects(&self) -> usize {
        self.get("state")["storage"]["objects"].as_object().unwrap().len()
    }

    fn images(&self) -> Vec<String> {
        let state = self.get("state");
        state["compute"]["images"].as_object().map(|images| images.keys().cloned().collect()).unwrap_or_default()
    }

    /// An operator who has this cloud's credentials, with an image of so many bytes in `out`.
    fn operator(&self, size: u64) -> Home {
        let home = Home::new()
            .with_variable("GOOGLE_APPLICATION_CREDENTIALS", self.told["credentials"]["service-account"].as_str().unwrap())
            .with_variable("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", self.told("compute"))
            .with_variable("STORAGE_EMULATOR_HOST", self.told("storage"))
            .with_variable("GOOGLE_CLOUD_PROJECT", self.told("project"));
        home.line("init").ok();
        let config = home.path().join("config/config.toml");
        std::fs::write(config, "[http]\ntimeout = \"2s\"\nattempts = 3\npause = \"0s\"\n").unwrap();
        image(&home, size, 1);
        home
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
        if !std::thread::panicking() {
            let _ = &self.state;
        }
    }
}

/// Nothing that was asked or answered is against Google's own description.
fn held(cloud: &Cloud) {
    assert_eq!(cloud.get("violations"), json!([]));
}

/// An image in the folder `out`, as `machine build` leaves it; `seed` makes it another one.
fn image(home: &Home, size: u64, seed: u8) {
    let out = home.work().join("out");
    std::fs::create_dir_all(&out).unwrap();
    let archive = out.join("image.tar.gz");
    let words = ["-c", ARCHIVE, &size.to_string(), &seed.to_string(), archive.to_str().unwrap()];
    assert!(Command::new("python3").args(words).status().unwrap().success());
    let sum = String::from_utf8(Command::new("sha256sum").arg(&archive).output().unwrap().stdout).unwrap();
    let digest = format!("{seed:02x}").repeat(32);
    let manifest = json!({
        "portdistrict_image": 1, "version": "0.4.0", "inputs": [], "source_date_epoch": 0, "kernel_release": "6", "command_line": "",
        "modules": [], "uki_authenticode": digest, "kernel_authenticode": digest, "sections": [], "pcr": {}, "reproduce": "",
        "disk": {"name": "disk.raw", "size": 1u64 << 30, "sha256": digest},
        "archive": {"name": "image.tar.gz", "size": archive.metadata().unwrap().len(), "sha256": &sum[..64]},
    });
    std::fs::write(out.join("image.json"), manifest.to_string()).unwrap();
}

#[test]
fn an_image_is_published_once_and_found_again() {
    let cloud = Cloud::start();
    let home = cloud.operator(100_000);
    let would = home.run((PUBLISH.to_owned() + " --dry-run --json").split(' ')).json();
    assert!(cloud.asked().is_empty(), "a dry run asks nothing");

    let done = home.run((PUBLISH.to_owned() + " --json").split(' ')).json();
    assert_eq!((done["name"].as_str(), done["already"].as_bool()), (Some("pd-0-4-0-010101010101"), Some(false)));
    // Word for word what was shown before.
    let shown: Vec<(String, Value)> =
        would["would"].as_array().unwrap().iter().map(|line| as_shown(&cloud, line.as_str().unwrap())).collect();
    assert_eq!(as_asked(cloud.asked()), shown);
    assert_eq!((cloud.objects(), cloud.images()), (0, vec!["global/pd-0-4-0-010101010101".to_owned()]));
    let state = cloud.get("state");
    let made = &state["compute"]["images"]["global/pd-0-4-0-010101010101"];
    assert_eq!(made["family"], "portdistrict");
    let features: BTreeSet<&str> = made["guestOsFeatures"].as_array().unwrap().iter().map(|f| f["type"].as_str().unwrap()).collect();
    assert_eq!(features, BTreeSet::from(["UEFI_COMPATIBLE", "SEV_SNP_CAPABLE", "GVNIC"]));
    assert!(home.path().join("cache/images/pd-0-4-0-010101010101.json").exists());

    // The same once more: it is looked at, and nothing else.
    cloud.forget();
    assert_eq!(home.run((PUBLISH.to_owned() + " --json").split(' ')).json()["already"], true);
    assert_eq!(cloud.asked().iter().map(|(line, _)| &line[..4]).collect::<Vec<_>>(), ["GET "]);
    // What image.json does not describe is not sent.
    image(&home, 1000, 2);
    std::fs::write(home.work().join("out/image.tar.gz"), "another one").unwrap();
    let error = home.line(PUBLISH).fails(4);
    assert!(error.contains("not the archive that image.json describes"), "{error}");
    assert_eq!(cloud.objects(), 0);
    held(&cloud);
}

/// A line of a dry run as the double would see it: without its own address, and with words for what is drawn by lot.
fn as_shown(cloud: &Cloud, line: &str) -> (String, Value) {
    let (method, rest) = line.split_once(' ').unwrap();
    let rest = rest.replace(cloud.told("url"), "");
    let (path, body) = rest.split_once(' ').unwrap_or((&rest, ""));
    let path = if path == "{session}" { "/upload/storage/v1/b/images/o" } else { path };
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    (format!("{method} {}", path.split('?').next().unwrap()), body)
}

/// The same of what was asked: pieces are one upload, and what is drawn by lot has its words.
fn as_asked(asked: Vec<(String, Value)>) -> Vec<(String, Value)> {
    let mut all: Vec<(String, Value)> = Vec::new();
    for (line, mut body) in asked {
        let mut path = line.split('?').next().unwrap().to_owned();
        if let Some((head, _)) = path.split_once("/operations/") {
            path = format!("{head}/operations/{{operation}}/wait");
        }
        if body.get("crc32c").is_some() {
            body["crc32c"] = json!("{crc32c}");
        }
        let body = if body.as_object().is_some_and(serde_json::Map::is_empty) { Value::Null } else { body };
        if all.last().is_none_or(|(last, _)| *last != path) {
            all.push((path, body));
        }
    }
    all
}

#[test]
fn every_call_may_fail_in_every_way_and_the_next_run_mends_it() {
    let calls = [
        ("POST", "^/token"),
        ("GET", "/images/pd-"),
        ("GET", "/o/pd-"),
        ("POST", "^/upload/"),
        ("PUT", "^/upload/"),
        ("POST", "/images[?]"),
        ("POST", "/wait$"),
        ("DELETE", "/o/pd-"),
    ];
    let kinds = ["403", "429", "500", "lost", "silence", "kill", "kill-after"];
    let cloud = Cloud::start();
    let home = cloud.operator(50_000);
    let (mut table, mut broken) = (String::new(), Vec::new());
    for (method, path) in calls {
        for kind in kinds {
            cloud.forget();
            let child = home.command(PUBLISH.split(' ')).spawn_paused(&cloud, &json!({"method": method, "path": path, "fault": kind}));
            let first = child.wait_with_output().unwrap();
            let left = (cloud.images().len(), cloud.objects());
            cloud.forget();
            let again = Ran::of(home.command(PUBLISH.split(' ')));
            let end = (cloud.images().len(), cloud.objects());
            let well = again.status == Some(0) && end == (1, 0);
            let told = first.status.code().map_or("killed".to_owned(), |status| status.to_string());
            let _ = writeln!(table, "{method:6} {path:14} {kind:10} first {told:6} left {left:?}, second {:?} left {end:?}", again.status);
            if !well {
                broken.push(again.to_string());
            }
            home.line("machine publish --prune --keep 1 --yes").ok();
            remove(&cloud);
        }
    }
    eprintln!("{table}");
    assert!(broken.is_empty(), "{table}{broken:?}");
    held(&cloud);
}

/// Takes everything away, as if it had never been published.
fn remove(cloud: &Cloud) {
    for image in cloud.images() {
        let name = image.strip_prefix("global/").unwrap();
        cloud.ask("DELETE", &format!("compute/v1/projects/double-project/global/images/{name}"), None);
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while !cloud.images().is_empty() {
        assert!(Instant::now() < deadline);
    }
}

trait Paused {
    /// Starts a command whose own process a fault may have to name.
    fn spawn_paused(self, cloud: &Cloud, fault: &Value) -> Child;
}

impl Paused for Command {
    fn spawn_paused(self, cloud: &Cloud, fault: &Value) -> Child {
        // A shell that waits for a line and then becomes the program has the number that the program will have.
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "read go && exec \"$0\" \"$@\""]).arg(self.get_program()).args(self.get_args());
        shell.env_clear().envs(self.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.current_dir(self.get_current_dir().unwrap()).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = shell.spawn().unwrap();
        let mut fault = fault.clone();
        fault["pid"] = child.id().into();
        cloud.fault(&fault);
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        child
    }
}

/// What Google's own tool says, which is held to the same double.
fn gcloud(cloud: &Cloud, home: &Home, line: &str) -> Value {
    let token = home.work().join("token");
    std::fs::write(&token, cloud.told("token")).unwrap();
    let variables = [
        ("CLOUDSDK_CONFIG", home.work().join("gcloud").to_str().unwrap().to_owned()),
        ("CLOUDSDK_CORE_PROJECT", cloud.told("project").to_owned()),
        ("CLOUDSDK_CORE_DISABLE_PROMPTS", "1".to_owned()),
        ("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE", token.to_str().unwrap().to_owned()),
        ("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", cloud.told("compute").to_owned()),
        // What is not the double's is not to be reached.
        ("https_proxy", "http://127.0.0.1:9".to_owned()),
    ];
    let ran = Command::new("gcloud").args(line.split(' ')).arg("--format=json").envs(variables).output().unwrap();
    assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
    serde_json::from_slice(&ran.stdout).unwrap()
}

#[test]
fn googles_own_tool_shows_what_was_made() {
    if Command::new("gcloud").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "gcloud is not installed");
        return;
    }
    let cloud = Cloud::start();
    let home = cloud.operator(1000).with_variable("CLOUDSDK_COMPUTE_ZONE", "europe-west4-a");
    let name = home.run((PUBLISH.to_owned() + " --json").split(' ')).json()["name"].as_str().unwrap().to_owned();
    home.line("machine deploy --on gce --label home --confidential").ok();

    let listed = gcloud(&cloud, &home, "compute images list --no-standard-images");
    assert_eq!(listed.as_array().unwrap().iter().map(|image| &image["name"]).collect::<Vec<_>>(), [&name]);
    let image = gcloud(&cloud, &home, &format!("compute images describe {name}"));
    assert_eq!((&image["family"], &image["status"]), (&json!("portdistrict"), &json!("READY")));
    let instances = gcloud(&cloud, &home, "compute instances list");
    let made = instances[0]["name"].as_str().unwrap().to_owned();
    let instance = gcloud(&cloud, &home, &format!("compute instances describe {made} --zone europe-west4-a"));
    assert_eq!((&instance["status"], &instance["labels"]["portdistrict-machine"]), (&json!("RUNNING"), &json!("home")));
    assert_eq!(instance["confidentialInstanceConfig"]["confidentialInstanceType"], "SEV_SNP");
    assert_eq!(instance["scheduling"]["onHostMaintenance"], "TERMINATE");

    home.line("machine destroy home --yes").ok();
    assert_eq!(gcloud(&cloud, &home, "compute instances list"), json!([]));
    held(&cloud);
}

#[test]
fn new_machines_get_an_older_image_again() {
    let cloud = Cloud::start();
    let home = cloud.operator(1000);
    for seed in 1..=3 {
        image(&home, 1000, seed);
        home.line(PUBLISH).ok();
    }
    let name = |seed: u8| format!("pd-0-4-0-{}", format!("{seed:02x}").repeat(6));
    let states = || -> Vec<(String, String)> {
        let listed = home.line("machine publish --list --json").json();
        let row = |row: &Value| (row["name"].as_str().unwrap().to_owned(), row["state"].as_str().unwrap().to_owned());
        listed["images"].as_array().unwrap().iter().map(row).collect()
    };
    let expect = |rows: &[(u8, &str)]| rows.iter().map(|(seed, state)| (name(*seed), (*state).to_owned())).collect::<Vec<_>>();
    assert_eq!(states(), expect(&[(3, "current"), (2, "published"), (1, "published")]));

    let line = format!("machine publish --rollback {}", name(2));
    assert!(home.line(&format!("{line} --dry-run")).ok().contains("/deprecate"));
    assert_eq!(states()[0].1, "current");
    home.line(&line).ok();
    assert_eq!(states(), expect(&[(3, "retired"), (2, "current"), (1, "published")]));
    home.line(&format!("machine publish --rollback {}", name(3))).ok();
    assert_eq!(states(), expect(&[(3, "current"), (2, "published"), (1, "published")]));
    let error = home.line("machine publish --rollback pd-nothing").fails(3);
    assert!(error.contains("you published no image pd-nothing"), "{error}");

    home.line(&line).ok();
    let error = home.line("machine publish --prune --keep 1").fails(2);
    assert!(error.contains("--yes"), "{error}");
    home.line("machine publish --prune --keep 1 --yes").ok();
    // The newest, and the one that new machines get.
    assert_eq!(states(), expect(&[(3, "retired"), (2, "current")]));
    held(&cloud);
}

#[test]
fn an_upload_that_is_cut_ten_times_arrives() {
    cut_ten_times(20 * 1024 * 1024);
}

#[test]
#[ignore = "300 MB: ci/test"]
fn a_large_upload_that_is_cut_ten_times_arrives() {
    cut_ten_times(300 * 1024 * 1024);
}

fn cut_ten_times(size: u64) {
    let cloud = Cloud::start();
    let home = cloud.operator(size);
    let size = home.work().join("out/image.tar.gz").metadata().unwrap().len();
    std::fs::write(home.path().join("config/config.toml"), "[http]\npause = \"0s\"\n").unwrap();
    // Twice the whole process is killed, and eight times the connection is cut, somewhere within a piece.
    for nth in 1..=2 {
        cloud.ask("DELETE", "_double/faults", None);
        let cut = json!([{"method": "PUT", "fault": "half-close", "bytes": 700_001, "nth": 1, "path": "^/upload"}]);
        cloud.fault(&cut);
        // After the cut it asks what arrived, then sends on.
        let kill = json!({"method": "PUT", "path": "^/upload", "nth": 3, "fault": "kill-after"});
        let child = home.command(PUBLISH.split(' ')).spawn_paused(&cloud, &kill);
        assert_eq!(child.wait_with_output().unwrap().status.code(), None, "{nth}: killed");
    }
    cloud.ask("DELETE", "_double/faults", None);
    let cuts: Vec<Value> = (0..8)
        .map(|n| json!({"method": "PUT", "path": "^/upload", "nth": 2 * n + 2, "fault": "half-close", "bytes": 900_000 + n * 7}))
        .collect();
    cloud.fault(&json!(cuts));
    home.line(PUBLISH).ok();
    let received = cloud.get("state")["storage"]["received"].as_u64().unwrap();
    assert!(received >= size && received - size <= 10 * PIECE, "{received} bytes for {size}");
    // The double has compared the checksum that was promised; and the image is there.
    assert_eq!((cloud.images().len(), cloud.objects()), (1, 0));
    held(&cloud);
}

#[test]
fn every_kind_of_credentials_opens_the_door() {
    let cloud = Cloud::start();
    let files = cloud.told["credentials"].as_object().unwrap().clone();
    for (kind, file) in files {
        let home = cloud.operator(10).with_variable("GOOGLE_APPLICATION_CREDENTIALS", file.as_str().unwrap());
        let ran = home.line("machine publish --list");
        assert_eq!(ran.status, Some(0), "{kind}: {ran}");
    }
    // A machine of Google's asks its own server.
    let host = cloud.told("url").strip_prefix("http://").unwrap();
    let home = Home::new()
        .with_variable("GCE_METADATA_HOST", host)
        .with_variable("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", cloud.told("compute"))
        .with_variable("GOOGLE_CLOUD_PROJECT", cloud.told("project"));
    home.line("init").ok();
    home.line("machine publish --list").ok();
    held(&cloud);
}

#[test]
#[ignore = "needs the static binary and QEMU: ci/test"]
fn from_an_image_through_google_to_a_page() {
    let cloud = Cloud::start();
    cloud.ask("POST", "_double/settings", Some(&json!({"machines": "qemu"})));
    let home = cloud.operator(10).with_variable("CLOUDSDK_COMPUTE_ZONE", "europe-west4-a");
    std::fs::write(home.path().join("config/config.toml"), "").unwrap();
    let web = Web::start();
    let inside = format!("10.0.2.2:{}", web.address.port());

    let published = home.run(["machine", "publish", vm::image().to_str().unwrap(), "--bucket", "images", "--json"]).json();
    home.line(&format!("machine deploy --on gce --label home --allow {inside}")).ok();
    // Its TPM shows the image that was published, and nothing is handed over before.
    let claimed = home.run(["machine", "claim", "home", "--tpm-root", cloud.told("tpm_root"), "--json"]).json();
    assert_eq!(claimed["rung"], "image-by-tpm", "{claimed}");
    let asked = home.run(["machine", "attest", "home", "--tpm-root", cloud.told("tpm_root"), "--json"]).json();
    assert_eq!((&asked["verdict"], &asked["image"]), (&json!("verified"), &published["digest"]), "{asked}");
    let invite = blob(&home.line("exit invite --node home --for anna").ok());
    assert_eq!(try_curl(&Home::new(), &invite, &format!("http://{inside}/")).ok(), GREETING);

    home.line("machine destroy home --yes").ok();
    let state = cloud.get("state")["compute"].clone();
    for kind in ["instances", "disks", "firewalls", "addresses", "machines"] {
        assert!(state[kind].as_object().is_none_or(serde_json::Map::is_empty), "{kind}: {state}");
    }
    held(&cloud);
}
