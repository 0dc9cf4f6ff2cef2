//! The terminal while `top` has it, and as it was before in every end: by a key, a signal, an error or a panic.

use std::io::{self, BufWriter, Stdout, stdout};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{DisableBracketedPaste, EnableBracketedPaste};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::{Frame, Terminal};

/// Bytes of output that are written at once.
const AT_ONCE: usize = 16 << 10;

/// Whether the terminal is as it was not before.
static OPEN: AtomicBool = AtomicBool::new(false);

/// The alternate screen, in raw mode; closed on drop and before a panic is told.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
}

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        close_before_a_panic_is_told();
        OPEN.store(true, Ordering::SeqCst);
        // Dropped if anything fails.
        let backend = CrosstermBackend::new(BufWriter::with_capacity(AT_ONCE, stdout()));
        let mut screen = Self { terminal: Terminal::new(backend)? };
        enable_raw_mode()?;
        // A paste is no keys.
        execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste)?;
        screen.terminal.clear()?;
        Ok(screen)
    }

    /// Draws, in the size that the terminal has now.
    pub(super) fn draw(&mut self, how: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(how).map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        close();
    }
}

/// Gives the terminal back; nothing if it was given back.
fn close() {
    if OPEN.swap(false, Ordering::SeqCst) {
        // A terminal that is gone needs nothing.
        let _ = execute!(stdout(), DisableBracketedPaste, LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}

/// Of any thread: without it, the others would go on in a terminal that is closed.
fn close_before_a_panic_is_told() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            close();
            before(panic);
            std::process::exit(101);
        }));
    });
}
