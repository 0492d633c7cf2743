//! Changing a file only if it is what the client thinks (RFC 9110, section 13.1), by compare-and-set of its name.

use peernet_core::io::RequestError;
use peernet_core::key::Name;
use peernet_core::register::{Condition, Register, Value, WriteId};
use peernet_proto::v1;

use super::record::decode_head;
use super::{FileError, Files};
use crate::driver::{PeerError, Written};

/// How often a change is tried again when others change the same name meanwhile (guess).
pub(super) const ATTEMPTS: usize = 16;

/// Which files an entity tag condition is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Tags {
    /// Any (`*`).
    Any,
    /// Those with one of these etags, in lower-case hex.
    Of(Vec<String>),
}

impl Tags {
    /// Whether the file with that etag, or none, is one of them.
    pub(crate) fn cover(&self, etag: Option<&str>) -> bool {
        match (self, etag) {
            (_, None) => false,
            (Tags::Any, Some(_)) => true,
            (Tags::Of(tags), Some(etag)) => tags.iter().any(|tag| tag == etag),
        }
    }
}

/// When a change may take effect.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Precondition {
    /// The file is one of these.
    pub if_match: Option<Tags>,
    /// The file is none of these, or there is none.
    pub if_none_match: Option<Tags>,
    /// The name's last write is still this one, or it still has none.
    pub still: Option<Option<WriteId>>,
}

impl From<v1::Precondition> for Precondition {
    fn from(when: v1::Precondition) -> Self {
        let tags = |tags: Vec<String>| match &tags[..] {
            [] => None,
            _ if tags.iter().any(|tag| tag == "*") => Some(Tags::Any),
            _ => Some(Tags::Of(tags)),
        };
        let v1::Precondition {
            if_match,
            if_none_match,
        } = when;
        Precondition {
            if_match: tags(if_match),
            if_none_match: tags(if_none_match),
            still: None,
        }
    }
}

impl From<Precondition> for v1::Precondition {
    fn from(when: Precondition) -> Self {
        let tags = |tags: Option<Tags>| match tags {
            None => Vec::new(),
            Some(Tags::Any) => vec!["*".into()],
            // None of no tags is no condition, but one of no tags is: no file has this one. Nor has any the one that stands for all.
            Some(Tags::Of(mut tags)) => {
                tags.retain(|tag| tag != "*");
                if tags.is_empty() {
                    tags.push(String::new());
                }
                tags
            }
        };
        let Precondition {
            if_match,
            if_none_match,
            // No client can say this.
            still: _,
        } = when;
        v1::Precondition {
            if_match: tags(if_match),
            if_none_match: tags(if_none_match),
        }
    }
}

impl Precondition {
    /// Any file, or none.
    fn is_none(&self) -> bool {
        *self == Precondition::default()
    }

    /// Whether it holds of the file with that etag, or of none.
    fn admits(&self, etag: Option<&str>) -> bool {
        self.if_match.as_ref().is_none_or(|tags| tags.cover(etag))
            && !self
                .if_none_match
                .as_ref()
                .is_some_and(|tags| tags.cover(etag))
    }
}

impl Files {
    /// Fails when the condition does not hold now, or the file is pinned. That it does proves nothing for later, but spares a useless upload.
    pub(super) async fn check(&self, name: &Name, when: &Precondition) -> Result<(), FileError> {
        if when.is_none() {
            return Ok(());
        }
        let register = self.peer.read_name(name.clone()).await?;
        judge(name, when, register.as_ref())
    }

    /// Writes a name if the condition holds; `exists`: and if there is a file. Tells whether there was one.
    pub(super) async fn change(
        &self,
        name: Name,
        value: Value,
        when: &Precondition,
        exists: bool,
    ) -> Result<bool, FileError> {
        let mut current = if when.is_none() && !exists {
            let written = self
                .peer
                .write_name(name.clone(), value.clone(), Condition::Always);
            match written.await? {
                Written::Done { replaced } => return Ok(replaced),
                // Pinned.
                Written::Unmet(register) => register,
            }
        } else {
            self.peer.read_name(name.clone()).await?
        };
        for _ in 0..ATTEMPTS {
            if exists && !current.as_ref().is_some_and(Register::is_present) {
                return Err(FileError::NotFound(name));
            }
            judge(&name, when, current.as_ref())?;
            let condition = match &current {
                Some(register) => Condition::Unchanged(register.write),
                None => Condition::Absent,
            };
            let written = self.peer.write_name(name.clone(), value.clone(), condition);
            match written.await? {
                Written::Done { replaced } => return Ok(replaced),
                Written::Unmet(register) => current = register,
            }
        }
        Err(FileError::Peer(PeerError::Refused(RequestError::Busy)))
    }
}

/// Fails when what the name holds may not be replaced: the condition does not hold of it, or it is pinned.
pub(super) fn judge(
    name: &Name,
    when: &Precondition,
    current: Option<&Register>,
) -> Result<(), FileError> {
    meets(name, when, current)?;
    if current.is_some_and(|r| r.value.is_pinned()) {
        return Err(FileError::Pinned(name.clone()));
    }
    Ok(())
}

/// Fails when the condition does not hold of what the name holds.
pub(super) fn meets(
    name: &Name,
    when: &Precondition,
    current: Option<&Register>,
) -> Result<(), FileError> {
    let etag = match current.map(|r| &r.value) {
        None | Some(Value::Deleted) => None,
        Some(Value::Present { head, .. }) => {
            let summary = decode_head(head).map_err(|reason| FileError::Record {
                name: name.clone(),
                reason,
            })?;
            Some(summary.etag_hex())
        }
    };
    let write = current.map(|r| r.write);
    if when.admits(etag.as_deref()) && when.still.is_none_or(|still| still == write) {
        Ok(())
    } else {
        let name = name.clone();
        Err(FileError::Precondition { name, etag })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_hold_as_the_rfc_says() {
        let tags = |tags: &[&str]| Some(Tags::Of(tags.iter().map(|t| (*t).to_owned()).collect()));
        let create = Precondition {
            if_none_match: Some(Tags::Any),
            ..Precondition::default()
        };
        assert!(create.admits(None) && !create.admits(Some("a")));
        let replace = Precondition {
            if_match: tags(&["a", "b"]),
            ..Precondition::default()
        };
        assert!(replace.admits(Some("b")) && !replace.admits(Some("c")) && !replace.admits(None));
        let exists = Precondition {
            if_match: Some(Tags::Any),
            ..Precondition::default()
        };
        assert!(exists.admits(Some("c")) && !exists.admits(None));
        let differs = Precondition {
            if_none_match: tags(&["a"]),
            ..Precondition::default()
        };
        assert!(differs.admits(Some("b")) && differs.admits(None) && !differs.admits(Some("a")));
        assert!(Precondition::default().admits(None));
    }

    #[test]
    fn a_tag_that_looks_like_any_stays_a_tag() {
        let of = |tags: &[&str]| Tags::Of(tags.iter().map(|t| (*t).to_owned()).collect());
        let kept = |tags: Tags| {
            let when = Precondition {
                if_none_match: Some(tags),
                ..Precondition::default()
            };
            Precondition::from(v1::Precondition::from(when))
        };
        for none in [of(&["*"]), of(&[])] {
            assert!(kept(none).admits(Some("a")));
        }
        let some = kept(of(&["*", "a"]));
        assert!(some.admits(Some("b")) && !some.admits(Some("a")));
        assert!(!kept(Tags::Any).admits(Some("a")));
    }
}
