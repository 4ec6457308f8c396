//! Previews: apps that stand beside another one for a time, with what that one may become.

use coppice_base::{Name, Timestamp};
use coppice_spec::AppSpec;
use serde::{Deserialize, Serialize};

use crate::Rejection;

/// Of what an app is a preview.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    /// The app beside which it stands.
    pub of: Name,
    /// Its own name, which the app's is made of ([`app_name`](Self::app_name)).
    pub name: Name,
    /// When it ends. The node that carries it out compares this with its own clock.
    pub until: Timestamp,
    /// What `of` becomes when it is promoted; what runs meanwhile is made of it.
    pub spec: Box<AppSpec>,
}

impl Preview {
    /// What the app of a preview is called. `None`: there is no such name.
    pub fn app_name(of: &Name, name: &Name) -> Option<Name> {
        Name::new(format!("{of}-{name}")).ok()
    }

    /// What does not hold of it as the preview that app `app` is; each as a sentence.
    pub(crate) fn check(&self, app: &Name) -> Vec<String> {
        let Self { of, name, until: _, spec } = self;
        let mut broken = Vec::new();
        if Self::app_name(of, name).as_ref() != Some(app) {
            broken.push(format!("app {app} is called otherwise than preview {name} of {of} is"));
        }
        if spec.name != *of {
            broken.push(format!("app {app} is a preview of {of}, and would be promoted to {}", spec.name));
        }
        broken
    }

    /// Why app `app`, which is `now` a preview or none, cannot become this one.
    pub(crate) fn refused(&self, app: &Name, now: Option<Option<&Self>>) -> Option<Rejection> {
        let broken = self.check(app);
        if !broken.is_empty() {
            return Some(Rejection::InvalidSpec { app: app.clone(), broken });
        }
        match now {
            None => None,
            Some(Some(now)) if now.of == self.of && now.name == self.name => None,
            Some(_) => Some(Rejection::NotAPreview { app: app.clone(), of: self.of.clone() }),
        }
    }
}
