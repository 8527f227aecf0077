//! `status --watch`: machines, friends, alerts and the ledger as they change, on a terminal or one JSON document a line.

mod frame;
mod screen;
mod trend;

use super::Call;
use super::ledger::Line;
use super::output::count;
use super::sight::{self, Live, Sight};
use super::status::{Attention, survey};
use crate::config::{Label, rate, time};
use crate::context::Context;
use crate::encoding::short;
use crate::error::{Code, Error, Result};
use crate::ledger::{Audience, Filter, Follower};
use crate::machine::Seen;
use crate::machine::watch::Watched;
use frame::{FriendRow, Ink, MachineRow, Picture, Piece, frame};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use screen::{Act, Screen};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval};

/// How often machines are asked, unless `--every` says otherwise.
pub(super) const EVERY: Duration = Duration::from_secs(2);
/// Longer is no watching any more.
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// Answers that come together are drawn together.
const DRAW_AFTER: Duration = Duration::from_millis(50);
/// The ledger's entries that are kept for the screen.
const ENTRIES: usize = 50;

/// Reads `--every`.
pub(super) fn parse_every(text: &str) -> Result<Duration> {
    let every = time::parse_duration(text)?;
    if (Duration::from_secs(1)..=LONGEST).contains(&every) {
        return Ok(every);
    }
    Err(Error::new(Code::Usage, format!("{text:?} is out of range")).hint("choose between 1s and 1h"))
}

/// Watches until the person, the reader or a signal ends it.
pub(super) fn run(call: &Call, every: Duration) -> Result<()> {
    let cx = call.context()?;
    // Whoever must be asked for a passphrase is asked before the screen is taken.
    cx.keyring()?;
    let mut board = Board::new(&cx)?;
    call.block_on_while_read(async {
        if call.out.json() || !Screen::is_there() {
            write(call, &cx, &mut board, every).await
        } else {
            show(call, &cx, &mut board, every).await
        }
    })
}

/// What is known now.
struct Board<'a> {
    cx: &'a Context,
    /// By label, as the ledger has them.
    machines: Vec<Sight>,
    trends: BTreeMap<Label, Trends>,
    attention: Vec<Attention>,
    entries: VecDeque<Line>,
    /// Entries that came since this was emptied.
    news: Vec<Line>,
    follower: Follower,
}

/// How the counters of a machine grow, and those of each grant on it.
#[derive(Default)]
struct Trends {
    all: trend::Trend,
    grants: HashMap<String, GrantTrend>,
}

#[derive(Default)]
struct GrantTrend {
    moved: trend::Trend,
    /// Since when the friend is on, Unix seconds.
    since: Option<u64>,
}

/// A friend who is on, on one machine.
#[derive(Serialize)]
struct Friend {
    /// Whom the grant is for, if it is known here.
    name: Option<Label>,
    grant: String,
    machine: Label,
    sessions: u64,
    /// Bits a second.
    up_rate: u64,
    down_rate: u64,
    /// Unix seconds.
    since: Option<u64>,
}

impl<'a> Board<'a> {
    fn new(cx: &'a Context) -> Result<Board<'a>> {
        let ledger = cx.ledger()?;
        // Following begins before the past is read, so that nothing falls between the two.
        let follower = ledger.follow(Filter::default())?;
        let past = ledger.log(&Filter { limit: Some(ENTRIES), ..Filter::default() })?;
        let entries = past.iter().map(|entry| Line::of(entry, ledger, &Audience::ThisDevice)).collect();
        Ok(Board { cx, machines: Vec::new(), trends: BTreeMap::new(), attention: Vec::new(), entries, news: Vec::new(), follower })
    }

    /// Takes in what the ledger says: machines that came and went, new entries. Returns the machines to ask.
    fn refresh(&mut self) -> Result<Vec<crate::ledger::Machine>> {
        let ledger = self.cx.ledger()?;
        let machines = ledger.machines()?;
        let mut known: BTreeMap<Label, Sight> = self.machines.drain(..).map(|sight| (sight.label.clone(), sight)).collect();
        for machine in &machines {
            let sight = known.remove(&machine.label).map_or_else(|| Sight::asking(self.cx, machine.clone()), Ok)?;
            self.machines.push(sight);
        }
        self.trends.retain(|label, _| machines.iter().any(|machine| machine.label == *label));
        for entry in self.follower.poll()? {
            if self.entries.back().is_some_and(|last| last.pos >= entry.pos) {
                continue;
            }
            self.news.push(Line::of(&entry, ledger, &Audience::ThisDevice));
            self.entries.push_back(Line::of(&entry, ledger, &Audience::ThisDevice));
            if self.entries.len() > ENTRIES {
                self.entries.pop_front();
            }
        }
        Ok(machines)
    }

    /// Takes in how a machine is.
    fn take(&mut self, seen: Seen) -> Result<()> {
        let Some(place) = self.machines.iter().position(|sight| sight.label == seen.machine.label) else { return Ok(()) };
        sight::hear(self.cx, std::slice::from_ref(&seen));
        let sight = Sight::of(self.cx, seen)?;
        self.trends.entry(sight.label.clone()).or_default().read(sight.live.as_ref(), Instant::now());
        self.machines[place] = sight;
        Ok(())
    }

    /// Works out what needs attention; once for all answers that came together, since it reads every grant.
    fn attend(&mut self) -> Result<()> {
        self.attention = survey(self.cx, &self.machines)?.attention;
        Ok(())
    }

    /// Everybody who is on, by machine and name.
    fn friends(&self) -> Vec<Friend> {
        let mut friends = Vec::new();
        for machine in &self.machines {
            let trends = self.trends.get(&machine.label);
            for used in machine.live.iter().flat_map(|live| &live.grants).filter(|used| used.sessions > 0) {
                let trend = trends.and_then(|trends| trends.grants.get(&used.id));
                friends.push(Friend {
                    name: used.name.clone(),
                    grant: used.id.clone(),
                    machine: machine.label.clone(),
                    sessions: used.sessions,
                    up_rate: trend.map_or(0, |trend| trend.moved.up),
                    down_rate: trend.map_or(0, |trend| trend.moved.down),
                    since: trend.and_then(|trend| trend.since),
                });
            }
        }
        friends.sort_by(|a, b| (&a.machine, &a.name, &a.grant).cmp(&(&b.machine, &b.name, &b.grant)));
        friends
    }

    fn picture(&self, every: Duration) -> Picture {
        let now = self.cx.now();
        let friends = self.friends();
        Picture {
            title: format!("{}, {} on now", count(self.machines.len(), "machine"), count(friends.len(), "friend")),
            notes: vec![format!("{}  every {} s  q quits", time::clock(now, now), every.as_secs()), "q quits".to_owned()],
            machines: self.machines.iter().map(|sight| machine_row(sight, self.trends.get(&sight.label))).collect(),
            friends: friends.iter().map(|friend| friend_row(friend, now)).collect(),
            alerts: self.attention.iter().map(|item| (item.what.clone(), item.command.clone())).collect(),
            entries: self
                .entries
                .iter()
                .map(|line| (time::clock(line.ms / 1000, now), format!("{} {}", line.kind, line.subject())))
                .collect(),
        }
    }
}

impl Trends {
    fn read(&mut self, live: Option<&Live>, at: Instant) {
        let Some(live) = live else {
            self.all.miss();
            self.grants.clear();
            return;
        };
        let sum = |of: fn(&sight::Use) -> u64| live.grants.iter().map(of).fold(0, u64::saturating_add);
        self.all.read(at, sum(|used| used.up), sum(|used| used.down));
        self.grants.retain(|id, _| live.grants.iter().any(|used| used.id == *id));
        for used in &live.grants {
            let trend = self.grants.entry(used.id.clone()).or_default();
            trend.moved.read(at, used.up, used.down);
            // The node remembers when the newest session began; the first one that was seen here is the one that counts.
            trend.since = trend.since.or(used.last_used).filter(|_| used.sessions > 0);
        }
    }
}

fn machine_row(sight: &Sight, trends: Option<&Trends>) -> MachineRow {
    let ink = match sight.state {
        "running" => Ink::Good,
        "asking" => Ink::Dim,
        "unclaimed" | "degraded" | "booting" | "switched-off" => Ink::Warn,
        _ => Ink::Bad,
    };
    let row = MachineRow {
        label: sight.label.to_string(),
        state: Piece(ink, sight.state.to_owned()),
        samples: trends.map(|trends| trends.all.samples()).unwrap_or_default(),
        ..MachineRow::default()
    };
    match &sight.live {
        None => row,
        Some(live) => MachineRow {
            sessions: format!("{} on", live.sessions),
            streams: count(usize::try_from(live.streams).unwrap_or(usize::MAX), "stream"),
            up: format!("{} up", rate(trends.map_or(0, |trends| trends.all.up))),
            down: format!("{} down", rate(trends.map_or(0, |trends| trends.all.down))),
            ..row
        },
    }
}

fn friend_row(friend: &Friend, now: u64) -> FriendRow {
    let name = friend.name.as_ref().map_or_else(|| short(&friend.grant), ToString::to_string);
    FriendRow {
        name: if friend.sessions > 1 { format!("{name} ×{}", friend.sessions) } else { name },
        machine: friend.machine.to_string(),
        up: format!("{} up", rate(friend.up_rate)),
        down: format!("{} down", rate(friend.down_rate)),
        since: friend.since.map(|since| format!("since {}", time::clock(since, now))).unwrap_or_default(),
    }
}

/// Asks machines side by side; each has one question open at most, so that a slow one holds up nobody.
struct Asking<'a, F> {
    ask: Box<dyn Fn(Watched) -> F + 'a>,
    open: FuturesUnordered<F>,
    /// Those that may be asked again; none while its question is open.
    idle: HashMap<Label, Option<Watched>>,
}

impl<'a, F: Future<Output = (Watched, Seen)>> Asking<'a, F> {
    fn new(ask: impl Fn(Watched) -> F + 'a) -> Self {
        Asking { ask: Box::new(ask), open: FuturesUnordered::new(), idle: HashMap::new() }
    }

    fn begin(&mut self, machines: Vec<crate::ledger::Machine>) {
        self.idle.retain(|label, watched| watched.is_none() || machines.iter().any(|machine| machine.label == *label));
        for machine in machines {
            let watched = match self.idle.get_mut(&machine.label) {
                None => Watched::new(machine.clone()),
                Some(idle) => match idle.take() {
                    Some(mut watched) => {
                        watched.update(machine.clone());
                        watched
                    }
                    None => continue,
                },
            };
            self.idle.insert(machine.label, None);
            self.open.push((self.ask)(watched));
        }
    }

    /// The next answer; never ends while nothing is asked.
    async fn answer(&mut self) -> Seen {
        match self.open.next().await {
            Some((watched, seen)) => {
                self.idle.insert(seen.machine.label.clone(), Some(watched));
                seen
            }
            None => std::future::pending().await,
        }
    }

    fn is_done(&self) -> bool {
        self.open.is_empty()
    }
}

/// Asks a machine, and hands it back with the answer.
async fn look(cx: &Context, mut watched: Watched) -> (Watched, Seen) {
    let seen = watched.look(cx).await;
    (watched, seen)
}

/// The view on a terminal.
async fn show(call: &Call, cx: &Context, board: &mut Board<'_>, every: Duration) -> Result<()> {
    let painter = call.out.look();
    let mut screen = Screen::enter(&call.out)?;
    let mut asking = Asking::new(|watched| look(cx, watched));
    let mut rounds = interval(every);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut draw_at = Some(tokio::time::Instant::now());
    loop {
        tokio::select! {
            _ = rounds.tick() => asking.begin(board.refresh()?),
            seen = asking.answer() => board.take(seen)?,
            act = screen.act() => if act == Act::Quit { return Ok(()) },
            () = async { match draw_at { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => {
                board.attend()?;
                let size = Screen::size();
                screen.draw(frame(&board.picture(every), size, &painter), size)?;
                draw_at = None;
                continue;
            }
        }
        draw_at = draw_at.or_else(|| Some(tokio::time::Instant::now() + DRAW_AFTER));
    }
}

/// One line of the stream.
#[derive(Serialize)]
struct Document<'a> {
    /// Unix seconds.
    at: u64,
    machines: Vec<Rated<'a>>,
    friends: Vec<Friend>,
    attention: &'a [Attention],
    /// Entries of the ledger since the last document.
    entries: Vec<Line>,
}

/// A machine with its rates.
#[derive(Serialize)]
struct Rated<'a> {
    #[serde(flatten)]
    sight: &'a Sight,
    /// Bits a second.
    up_rate: u64,
    down_rate: u64,
}

impl<'a> Rated<'a> {
    fn of(sight: &'a Sight, trends: &BTreeMap<Label, Trends>) -> Rated<'a> {
        let trend = trends.get(&sight.label).map(|trends| &trends.all);
        Rated { sight, up_rate: trend.map_or(0, |trend| trend.up), down_rate: trend.map_or(0, |trend| trend.down) }
    }
}

/// The view for programs: a document for each round, when all have answered, or at the latest when the next round begins.
async fn write(call: &Call, cx: &Context, board: &mut Board<'_>, every: Duration) -> Result<()> {
    let mut asking = Asking::new(|watched| look(cx, watched));
    let mut rounds = interval(every);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut due = false;
    loop {
        tokio::select! {
            _ = rounds.tick() => {
                if due && !tell(call, cx, board)? {
                    return Ok(());
                }
                asking.begin(board.refresh()?);
                due = true;
            }
            seen = asking.answer() => board.take(seen)?,
        }
        if due && asking.is_done() {
            due = false;
            if !tell(call, cx, board)? {
                return Ok(());
            }
        }
    }
}

/// False once the reader has gone.
fn tell(call: &Call, cx: &Context, board: &mut Board<'_>) -> Result<bool> {
    board.attend()?;
    let entries = std::mem::take(&mut board.news);
    let rated = |sight| Rated::of(sight, &board.trends);
    call.out.json_line(&Document {
        at: cx.now(),
        machines: board.machines.iter().map(rated).collect(),
        friends: board.friends(),
        attention: &board.attention,
        entries,
    })
}
