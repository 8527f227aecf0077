//! `status --html`: one page with the last 30 days, gathered from the nodes, for a browser with no network at all.

mod html;
mod plot;

use super::Call;
use super::output::{Look, View, count};
use super::sight::{self, Sight};
use super::status::{Attention, survey};
use crate::config::{Label, bytes, fs, time};
use crate::encoding::{base64, short};
use crate::error::{Code, Error, Result};
use crate::ledger::GrantRow;
use crate::machine::watch::{Past, look_back_at_all};
use crate::session::messages::{HistoryDay, HistoryReply, Used};
use html::{Data, Machine, OTHERS, render};
use plot::Series;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The days that are shown, today among them.
const DAYS: usize = 30;
const DAY: u64 = 24 * 60 * 60;

/// What was written.
#[derive(Serialize)]
struct Written {
    file: String,
    bytes: usize,
    /// The first and the last day, UTC.
    from: String,
    to: String,
    /// Labels of the machines whose numbers are in it.
    machines: Vec<String>,
    /// Those whose numbers are not, and why.
    silent: Vec<Silent>,
}

#[derive(Serialize)]
struct Silent {
    machine: String,
    why: String,
}

impl View for Written {
    fn text(&self, look: &Look) -> String {
        let size = bytes(self.bytes as u64);
        let mut text = format!("Wrote {} ({size}): {}, {} to {}.\n", self.file, count(self.machines.len(), "machine"), self.from, self.to);
        for Silent { machine, why } in &self.silent {
            text += &format!("{} {machine} is not in it: {}\n", look.warn("missing:"), super::output::clean(why));
        }
        text
    }
}

/// Asks every machine, and writes the page.
pub(super) fn run(call: &Call, file: &Path) -> Result<()> {
    let to_stdout = file == Path::new("-");
    if to_stdout && call.out.json() {
        return Err(Error::new(Code::Usage, "--html - prints the page itself, and --json a document")
            .hint("portdistrict status --html FILE --json"));
    }
    if !to_stdout {
        may_write(call, file)?;
    }
    let cx = call.context()?;
    let owner = cx.keyring()?.node_id();
    let past = call.block_on(look_back_at_all(&cx))?;
    past.iter().for_each(|past| sight::hear(&cx, std::slice::from_ref(&past.seen)));
    let mut told = Vec::new();
    for Past { seen, history } in past {
        let sight = Sight::of(&cx, seen)?;
        told.push((sight, history.map(|history| history.map_err(|error| error.message().to_owned()))));
    }
    let (sights, histories): (Vec<_>, Vec<_>) = told.into_iter().unzip();
    let attention = survey(&cx, &sights)?.attention;
    let data = gather(owner, cx.now(), &sights, &histories, &cx.ledger()?.grants()?, attention);
    let page = render(&data);
    if to_stdout {
        return call.out.raw(page.as_bytes()).map(drop);
    }
    fs::write_private(file, page.as_bytes())?;
    call.out.show(&written(file, page.len(), data))
}

/// Refuses what is no file, and asks before one is replaced.
fn may_write(call: &Call, file: &Path) -> Result<()> {
    match std::fs::symlink_metadata(file) {
        Ok(found) if found.is_file() => call.out.confirm(&format!("Replace {}?", file.display())),
        Ok(_) => Err(Error::new(Code::Usage, format!("{} is not a file that could be replaced", file.display()))
            .hint("name a file, or - for stdout: portdistrict status --html -")),
        Err(_) => Ok(()),
    }
}

fn written(file: &Path, bytes: usize, data: Data) -> Written {
    let (mut machines, mut silent) = (Vec::new(), Vec::new());
    for machine in data.machines {
        match machine.silent {
            None => machines.push(machine.bytes.name),
            Some(why) => silent.push(Silent { machine: machine.bytes.name, why }),
        }
    }
    let day = |back: u64| time::rfc3339((data.made / DAY).saturating_sub(back) * DAY)[..10].to_owned();
    Written { file: file.display().to_string(), bytes, from: day(DAYS as u64 - 1), to: day(0), machines, silent }
}

/// What a node said of its last days; none if it did not answer at all.
type Told = Option<Result<HistoryReply, String>>;

/// The page's numbers from what each machine told.
fn gather(owner: String, now: u64, sights: &[Sight], told: &[Told], grants: &[GrantRow], attention: Vec<Attention>) -> Data {
    let today = now / DAY;
    let first = (today + 1).saturating_sub(DAYS as u64);
    let names = grants.iter().map(|grant| (grant.id.0, &grant.name)).collect();
    let mut sums = Sums { first, names, friends: BTreeMap::new(), refusals: BTreeMap::new(), handshakes: vec![0; DAYS] };
    let machines = sights.iter().zip(told).map(|(sight, told)| {
        let bytes = Series { name: sight.label.to_string(), values: vec![0; DAYS] };
        let mut machine = Machine { state: sight.state.to_owned(), bytes, sessions: 0, silent: None };
        match told {
            Some(Ok(history)) => history.days.iter().for_each(|day| sums.add(day, &mut machine)),
            Some(Err(why)) => machine.silent = Some(why.clone()),
            // Nobody can have used what nobody owns.
            None if sight.state == "unclaimed" => {}
            None => machine.silent = Some(sight.problem.as_ref().map_or_else(|| sight.state.to_owned(), |problem| problem.message.clone())),
        }
        machine
    });
    let machines = machines.collect();
    let series = |(name, values)| Series { name, values };
    Data {
        owner,
        made: now,
        days: (0..DAYS as u64).map(|n| time::day(first + n)).collect(),
        machines,
        friends: sums.friends.into_iter().map(|(name, (values, used))| (series((name, values)), used)).collect(),
        handshakes: sums.handshakes,
        refusals: sums.refusals.into_iter().map(series).collect(),
        attention: attention.into_iter().map(|item| (item.what, item.command)).collect(),
    }
}

/// Sums over all machines.
struct Sums<'a> {
    first: u64,
    names: HashMap<[u8; 8], &'a Label>,
    friends: BTreeMap<String, (Vec<u64>, Used)>,
    refusals: BTreeMap<String, Vec<u64>>,
    handshakes: Vec<u64>,
}

impl Sums<'_> {
    /// Adds one day of one machine; one that is not shown adds nothing.
    fn add(&mut self, day: &HistoryDay, machine: &mut Machine) {
        let place = day.day.checked_sub(self.first).and_then(|n| usize::try_from(n).ok()).filter(|n| *n < DAYS);
        let Some(place) = place else { return };
        let put = |values: &mut Vec<u64>, n: u64| values[place] = values[place].saturating_add(n);
        put(&mut self.handshakes, day.handshakes);
        for (reason, n) in &day.refusals {
            put(self.refusals.entry(reason.clone()).or_insert_with(|| vec![0; DAYS]), *n);
        }
        let apart: Vec<_> = day.grants.iter().map(|grant| (self.friend(&grant.id), grant.used)).collect();
        let together = [(OTHERS.to_owned(), day.others)].into_iter().filter(|(_, used)| *used != Used::default());
        for (name, used) in apart.into_iter().chain(together) {
            let (values, all) = self.friends.entry(name).or_insert_with(|| (vec![0; DAYS], Used::default()));
            put(values, used.bytes());
            all.add(used);
            put(&mut machine.bytes.values, used.bytes());
            machine.sessions = machine.sessions.saturating_add(used.sessions);
        }
    }

    /// Whom a grant is for; several grants of one friend are counted together.
    fn friend(&self, id: &[u8; 8]) -> String {
        self.names.get(id).map_or_else(|| format!("grant {}", short(&base64(id))), ToString::to_string)
    }
}
