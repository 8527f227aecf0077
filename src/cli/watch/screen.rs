//! The whole terminal for a while: another screen, no cursor, keys as they are pressed; given back whatever happens.

use super::super::output::Output;
use crate::error::{Code, Error, Result};
use rustix::fs::{Mode, OFlags};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{self, IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Another screen, its cursor hidden, lines cut at the edge instead of wrapped.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// The terminal shows what stands between these two at once, if it knows them.
const BEGIN: &str = "\x1b[?2026h";
const END: &str = "\x1b[?2026l";
/// A special character that nobody can type.
const NO_KEY: u8 = 0;
/// Where the size is not known.
const USUAL: (usize, usize) = (80, 24);
const CTRL_L: u8 = 0x0c;

/// Whether the other screen is on; whoever clears this gives the terminal back.
static ON: AtomicBool = AtomicBool::new(false);

/// What a person at the terminal did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// `q` was pressed.
    Quit,
    /// The window has another size, or all of it is wanted again.
    Redraw,
}

/// The terminal while it is ours. Dropping it gives it back.
pub(super) struct Screen<'a> {
    out: &'a Output,
    keys: Option<Keys>,
    resized: Signal,
    /// What stands there now.
    shown: Vec<String>,
    size: (usize, usize),
}

impl<'a> Screen<'a> {
    /// Whether there is one to take.
    pub(super) fn is_there() -> bool {
        io::stdout().is_terminal()
    }

    /// Takes it.
    pub(super) fn enter(out: &'a Output) -> Result<Screen<'a>> {
        let failed = |error| Error::new(Code::Failed, "cannot listen to the terminal").cause(error).hint("portdistrict status");
        let resized = signal(SignalKind::window_change()).map_err(failed)?;
        leave_before_a_panic_is_told();
        let screen = Screen { out, keys: Keys::open(), resized, shown: Vec::new(), size: (0, 0) };
        ON.store(true, Ordering::SeqCst);
        out.raw(ENTER.as_bytes())?;
        Ok(screen)
    }

    /// Columns and rows, as they are now.
    pub(super) fn size() -> (usize, usize) {
        let size = tcgetwinsize(io::stdout()).ok().map(|size| (usize::from(size.ws_col), usize::from(size.ws_row)));
        size.filter(|&(columns, rows)| columns > 0 && rows > 0).unwrap_or(USUAL)
    }

    /// Shows these lines, which fit `size`; only those that changed are written, in one piece.
    pub(super) fn draw(&mut self, lines: Vec<String>, size: (usize, usize)) -> Result<()> {
        let mut frame = String::from(BEGIN);
        if size != self.size {
            frame += "\x1b[2J";
            self.shown.clear();
        }
        let blank = String::new();
        for row in 0..lines.len().max(self.shown.len()) {
            let line = lines.get(row).unwrap_or(&blank);
            if self.shown.get(row).unwrap_or(&blank) != line {
                // Cleared first: at the last column clearing what follows would take that column along.
                frame += &format!("\x1b[{};1H\x1b[2K{line}", row + 1);
            }
        }
        (self.shown, self.size) = (lines, size);
        if frame.len() > BEGIN.len() {
            frame += END;
            self.out.raw(frame.as_bytes())?;
        }
        Ok(())
    }

    /// Waits for the person.
    pub(super) async fn act(&mut self) -> Act {
        let act = tokio::select! {
            _ = self.resized.recv() => Act::Redraw,
            act = async { match &mut self.keys { Some(keys) => keys.act().await, None => std::future::pending().await } } => act,
        };
        if act == Act::Redraw {
            self.size = (0, 0);
        }
        act
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        leave();
    }
}

/// Shows the screen of before again; once, because a second time would move the cursor.
fn leave() {
    if ON.swap(false, Ordering::SeqCst) {
        let mut to = io::stdout().lock();
        // Nobody can be told when that fails.
        let _ = to.write_all(LEAVE.as_bytes()).and_then(|()| to.flush());
    }
}

/// What a panic says must not vanish with the other screen.
fn leave_before_a_panic_is_told() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            leave();
            tell(panic);
        }));
    });
}

/// The keyboard: keys come one by one and are not shown. Ctrl-C stays a signal.
struct Keys {
    terminal: Arc<OwnedFd>,
    before: Termios,
    acts: mpsc::UnboundedReceiver<Act>,
}

impl Keys {
    /// None where there is no terminal to type at.
    fn open() -> Option<Keys> {
        let terminal = Arc::new(rustix::fs::open("/dev/tty", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).ok()?);
        let before = tcgetattr(&*terminal).ok()?;
        let mut now = before.clone();
        now.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        // Whoever stops or kills the program by a key would be left with our screen.
        for key in [SpecialCodeIndex::VSUSP, SpecialCodeIndex::VQUIT, SpecialCodeIndex::VSTOP] {
            now.special_codes[key] = NO_KEY;
        }
        tcsetattr(&*terminal, OptionalActions::Flush, &now).ok()?;
        let (sender, acts) = mpsc::unbounded_channel();
        let keyboard = terminal.clone();
        // It waits in the kernel until the program ends.
        let listening = std::thread::Builder::new().name("keys".to_owned()).spawn(move || listen(&keyboard, &sender));
        let keys = Keys { terminal, before, acts };
        listening.is_ok().then_some(keys)
    }

    async fn act(&mut self) -> Act {
        match self.acts.recv().await {
            Some(act) => act,
            // The terminal is gone; a signal will say so.
            None => std::future::pending().await,
        }
    }
}

/// Passes on the keys that mean something, until nobody wants them or there are no more.
fn listen(keyboard: &OwnedFd, sender: &mpsc::UnboundedSender<Act>) {
    let mut pressed = [0; 64];
    while let Ok(n @ 1..) = rustix::io::retry_on_intr(|| rustix::io::read(keyboard, &mut pressed)) {
        let act = pressed[..n].iter().find_map(|key| match *key {
            b'q' | b'Q' => Some(Act::Quit),
            CTRL_L => Some(Act::Redraw),
            _ => None,
        });
        if act.is_some_and(|act| sender.send(act).is_err()) {
            return;
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = tcsetattr(&*self.terminal, OptionalActions::Flush, &self.before);
    }
}
