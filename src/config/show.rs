//! Values of settings as TOML shows them.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::cold::{ColdPlace, Secret};
use super::settings::{AdminListen, Peer};

/// A setting's value.
pub(super) trait Value: Sized {
    /// `None` where there is none.
    fn show(&self) -> Option<String>;
}

impl Value for u64 {
    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Value for bool {
    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Value for String {
    fn show(&self) -> Option<String> {
        Some(format!("{self:?}"))
    }
}

impl Value for SocketAddr {
    fn show(&self) -> Option<String> {
        Some(format!("\"{self}\""))
    }
}

impl Value for Option<SocketAddr> {
    fn show(&self) -> Option<String> {
        self.as_ref().map(|a| format!("\"{a}\""))
    }
}

impl Value for AdminListen {
    fn show(&self) -> Option<String> {
        Some(match self {
            AdminListen::Auto => "\"auto\"".to_owned(),
            AdminListen::Off => "\"off\"".to_owned(),
            AdminListen::At(address) => format!("\"{address}\""),
        })
    }
}

impl Value for Vec<Peer> {
    fn show(&self) -> Option<String> {
        let all: Vec<String> = self
            .iter()
            .map(|p| format!("{}={}", p.id, p.address))
            .collect();
        (!all.is_empty()).then(|| format!("{:?}", all.join(",")))
    }
}

impl Value for Option<PathBuf> {
    fn show(&self) -> Option<String> {
        self.as_ref()
            .map(|p| format!("{:?}", p.display().to_string()))
    }
}

impl Value for Option<ColdPlace> {
    fn show(&self) -> Option<String> {
        self.as_ref().map(|place| match place {
            ColdPlace::Dir(dir) => format!("{:?}", dir.display().to_string()),
            ColdPlace::S3 { bucket, prefix } => format!("\"s3://{bucket}/{prefix}\""),
        })
    }
}

impl Value for Secret {
    fn show(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| "\"***\"".to_owned())
    }
}
