//! Where things are on disk, what the user set, and the small typed values every command shares.
//!
//! Nothing here touches the disk until asked: finding [`Paths`] reads the environment only, so that help and completion
//! work with a broken home.

mod destination;
pub mod fs;
mod label;
mod paths;
mod settings;
pub mod size;
pub mod time;

pub use destination::{Destination, Pattern, Ports, check_glob, glob};
pub use label::Label;
pub use paths::Paths;
pub use settings::{
    ConnectSettings, DEFAULT as DEFAULT_SETTINGS, GceSettings, HetznerSettings, HttpSettings, InviteSettings, KeySource, KeyringSettings,
    Settings,
};
pub use size::{bytes, parse_bytes, parse_rate, rate};
