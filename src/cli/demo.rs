//! `demo`: the whole story in a temporary home, each command printed before it runs, and nothing left afterwards.

use super::Call;
use super::output::{Look, View};
use crate::config::fs::ensure_private_dir;
use crate::encoding::base32;
use crate::error::{Code, Doing, Error, Result};
use crate::keyring;
use serde::Serialize;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;

/// What the demo's web server says, so that one sees where it came from.
const PAGE: &str = "Hello from a web server that only the exit can reach.\n";

/// Play the whole story on this computer, in a temporary home
///
/// An owner deploys a machine and invites a friend, the friend fetches a page through it and accepts the invite, a stranger with the
/// same text is refused, the owner revokes. Every command is printed before it runs. Nothing remains. Needs curl.
#[derive(clap::Args)]
#[command(
    after_long_help = "EXAMPLES:\n  See it work:\n    portdistrict demo\n\nWith --tor the machine is an onion service, and the friend comes over the \
                       Tor network."
)]
pub(super) struct DemoArgs {
    /// Let the machine be an onion service, and the friend come over Tor
    #[arg(long)]
    tor: bool,
}

/// Who acts; each has a home of his own.
#[derive(Clone, Copy)]
enum Who {
    Owner,
    Anna,
    Stranger,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Who::Owner => "you",
            Who::Anna => "anna",
            Who::Stranger => "stranger",
        }
    }
}

/// One command of the story.
struct Scene {
    who: Who,
    why: &'static str,
    words: Vec<String>,
    /// Status it must end with.
    expect: i32,
    /// File that its output goes to instead of the screen.
    into: Option<&'static str>,
}

impl Scene {
    fn new(who: Who, why: &'static str, line: &str) -> Scene {
        Scene { who, why, words: line.split(' ').map(str::to_owned).collect(), expect: 0, into: None }
    }

    fn fails(mut self, status: i32) -> Scene {
        self.expect = status;
        self
    }

    fn into(mut self, file: &'static str) -> Scene {
        self.into = Some(file);
        self
    }
}

/// The story; `web` is the address of the demo's web server.
fn story(web: &str, tor: bool) -> Vec<Scene> {
    let onion = if tor { " --tor" } else { "" };
    let deploy = format!("machine deploy --on local --label demo --listen 127.0.0.1 --allow {web}{onion}");
    let fetched = match tor {
        true => "The friend fetches a page through the exit, over Tor; nothing remains on her side",
        false => "The friend fetches a page through the exit; nothing remains on her side",
    };
    let fetch = format!("exit try @invite.txt -- curl -sS http://{web}/");
    vec![
        Scene::new(Who::Owner, "Create an identity", "init"),
        Scene::new(Who::Owner, "Run an exit on this machine; guests may reach one local web server", &deploy),
        Scene::new(Who::Owner, "Take possession of it", "machine claim demo"),
        Scene::new(Who::Owner, "Make an invite that a friend can paste", "exit invite --node demo --for anna --quiet").into("invite.txt"),
        Scene::new(Who::Anna, fetched, &fetch),
        Scene::new(Who::Anna, "She accepts it, which makes it hers alone", "exit accept @invite.txt --as demo"),
        Scene::new(Who::Stranger, "Somebody else finds the same text in a chat: refused", &fetch).fails(4),
        Scene::new(Who::Owner, "The owner is told", "status"),
        Scene::new(Who::Owner, "Take the grant back", "grant revoke anna --yes"),
        Scene::new(Who::Owner, "Everything was recorded and signed", "ledger log"),
        Scene::new(Who::Owner, "", "ledger verify"),
        Scene::new(Who::Owner, "Remove the machine", "machine destroy demo --yes"),
    ]
}

/// The temporary homes; the machine and every file go when this is dropped, also after Ctrl-C.
struct Stage {
    dir: PathBuf,
    program: PathBuf,
}

impl Stage {
    fn build() -> Result<Stage> {
        let mut random = [0; 10];
        getrandom::fill(&mut random).map_err(|e| Error::new(Code::Failed, "the system gives no random bytes").cause(e))?;
        let dir = std::env::temp_dir().join(format!("portdistrict-demo-{}", base32(&random)));
        ensure_private_dir(&dir)?;
        let program = std::env::current_exe().doing("find", "this program")?;
        Ok(Stage { dir, program })
    }

    fn home(&self, who: Who) -> PathBuf {
        self.dir.join(who.name())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The detached node would outlive the demo; harmless if the story has removed it already.
        let _ = std::process::Command::new(&self.program)
            .args(["machine", "destroy", "demo", "--yes", "--quiet"])
            .env_remove(keyring::VARIABLE)
            .env("PORTDISTRICT_HOME", self.home(Who::Owner))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A command and what it said; one line of JSON each.
#[derive(Serialize)]
struct Played {
    who: &'static str,
    why: &'static str,
    command: String,
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl View for Played {
    fn text(&self, _: &Look) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// The line that announces a command.
#[derive(Serialize)]
struct Announced<'a> {
    scene: &'a str,
}

impl View for Announced<'_> {
    fn text(&self, look: &Look) -> String {
        match self.scene.split_once("$ ") {
            Some((who, command)) => format!("{}{} {}", who, look.dim("$"), look.bold(command)),
            None => format!("\n{}", look.dim(format!("# {}", self.scene))),
        }
    }
}

pub(super) fn run(call: &Call, args: &DemoArgs) -> Result<()> {
    call.block_on(async {
        let stage = Stage::build()?;
        let listener = TcpListener::bind("127.0.0.1:0").await.doing("open", "the demo's web server")?;
        let web = listener.local_addr().doing("open", "the demo's web server")?.to_string();
        let server = tokio::spawn(serve(listener));
        for scene in story(&web, args.tor) {
            play(call, &stage, &scene).await?;
        }
        server.abort();
        Ok(())
    })?;
    call.out.say("\nThat was the whole story; nothing of it remains. For real: portdistrict init");
    Ok(())
}

async fn play(call: &Call, stage: &Stage, scene: &Scene) -> Result<()> {
    let command = format!("portdistrict {}", scene.words.join(" "));
    let shown = scene.into.map_or_else(|| command.clone(), |file| format!("{command} | tee {file}"));
    if !call.out.json() {
        if !scene.why.is_empty() {
            call.out.item(&Announced { scene: scene.why })?;
        }
        call.out.item(&Announced { scene: &format!("{}$ {shown}", scene.who.name()) })?;
    }
    let output = perform(stage, scene).await.doing("run", &command)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if let Some(file) = scene.into {
        let path = stage.dir.join(file);
        std::fs::write(&path, &output.stdout).doing("write", path.display())?;
    }
    let status = output.status.code();
    let played = Played {
        who: scene.who.name(),
        why: scene.why,
        command: command.clone(),
        status,
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    };
    call.out.item(&played)?;
    if status == Some(scene.expect) {
        return Ok(());
    }
    Err(Error::new(Code::Failed, format!("`{command}` ended with {}, not with status {}", output.status, scene.expect))
        .hint(if played.stderr.contains("curl") { "install curl, which the demo fetches a page with" } else { "portdistrict doctor" }))
}

async fn perform(stage: &Stage, scene: &Scene) -> std::io::Result<Output> {
    Command::new(&stage.program)
        .args(&scene.words)
        .env_remove(keyring::VARIABLE)
        .env("PORTDISTRICT_HOME", stage.home(scene.who))
        .current_dir(&stage.dir)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
}

/// Answers every request with the same page.
async fn serve(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", PAGE.len());
        let _ = stream.write_all((head + PAGE).as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn every_command_of_the_story_parses() {
        for scene in story("127.0.0.1:8080", false).into_iter().chain(story("127.0.0.1:8080", true)) {
            let words = std::iter::once("portdistrict".to_owned()).chain(scene.words.clone());
            assert!(super::super::Cli::try_parse_from(words).is_ok(), "{:?}", scene.words);
        }
    }

    #[test]
    fn the_stage_is_removed() {
        let stage = Stage { dir: std::env::temp_dir().join("portdistrict-demo-test-stage"), program: PathBuf::from("/bin/true") };
        ensure_private_dir(&stage.dir).unwrap();
        let dir = stage.dir.clone();
        drop(stage);
        assert!(!dir.exists());
    }
}
