//! What is refused of the options of peers' pods. Keys and values of labels and annotations are checked here alone: a schema
//! cannot look at keys, and an expression that did would cost the API server more than it grants. A network with a bad one
//! is answered `InvalidSpec` by the operator.

use std::collections::BTreeSet;

use super::{Violation, consists_of, is_subdomain, rules};
use crate::pod::{PodOptions, SecretName, TaintEffect, Toleration, TolerationOperator};

const SECRETS_MAX: usize = 16;
const TOLERATIONS_MAX: usize = 32;
const SELECTOR_MAX: usize = 32;
const ANNOTATIONS_MAX: usize = 64;
/// Kubernetes', of all keys and values together.
pub(super) const ANNOTATION_BYTES_MAX: usize = 256 * 1024;
/// Kubernetes', of a label's value and of a key without what is before the slash.
const NAME_MAX: usize = 63;
/// A week, which is as good as for ever (guess).
const SECONDS_MAX: i64 = 604_800;

const NOT_A_NAME: &str =
    "names consist of lower-case letters, digits, '-' and '.', between letters or digits";
const NOT_A_KEY: &str = "a key has 1 to 63 letters, digits, '-', '_' and '.', between letters or digits, and before \
                         that, if anything, a domain and a slash";
const NOT_A_VALUE: &str =
    "a label's value has up to 63 letters, digits, '-', '_' and '.', between letters or digits";
const NOT_SECONDS: &str = "tolerationSeconds must lie between 0 and 604800";

const TWICE: &str = "is named twice";

pub(super) fn check(options: &PodOptions) -> Result<(), Violation> {
    let PodOptions {
        image_pull_secrets,
        node_selector,
        tolerations,
        priority_class_name,
        annotations,
    } = options;
    for (field, entries, most) in [
        ("imagePullSecrets", image_pull_secrets.len(), SECRETS_MAX),
        ("nodeSelector", node_selector.len(), SELECTOR_MAX),
        ("tolerations", tolerations.len(), TOLERATIONS_MAX),
        ("annotations", annotations.len(), ANNOTATIONS_MAX),
    ] {
        if entries > most {
            return Err(Violation::TooMany { field, most });
        }
    }
    let mut names = BTreeSet::new();
    for SecretName { name } in image_pull_secrets {
        refuse_unless(names.insert(name), "imagePullSecrets", name, TWICE)?;
        refuse_unless(is_subdomain(name), "imagePullSecrets", name, NOT_A_NAME)?;
    }
    for (key, value) in node_selector {
        refuse_unless(is_key(key), "nodeSelector", key, NOT_A_KEY)?;
        refuse_unless(is_value(value), "nodeSelector", value, NOT_A_VALUE)?;
    }
    tolerations.iter().try_for_each(check_toleration)?;
    if let Some(name) = priority_class_name {
        refuse_unless(is_subdomain(name), "priorityClassName", name, NOT_A_NAME)?;
    }
    for key in annotations.keys() {
        refuse_unless(is_key(key), "annotations", key, NOT_A_KEY)?;
    }
    let bytes: usize = annotations.iter().map(|(k, v)| k.len() + v.len()).sum();
    if bytes > ANNOTATION_BYTES_MAX {
        return Err(Violation::AnnotationBytes(bytes));
    }
    Ok(())
}

fn check_toleration(toleration: &Toleration) -> Result<(), Violation> {
    let Toleration {
        key,
        operator,
        value,
        effect,
        toleration_seconds,
    } = toleration;
    let refuse = |holds: bool, text: &str, why| refuse_unless(holds, "tolerations", text, why);
    match key {
        Some(key) => refuse(is_key(key), key, NOT_A_KEY)?,
        None => {
            let any = *operator == TolerationOperator::Exists;
            refuse(any, "", rules::TOLERATES_KEY.why)?;
        }
    }
    if let Some(value) = value {
        let equal = *operator == TolerationOperator::Equal;
        refuse(equal, value, rules::TOLERATES_VALUE.why)?;
        refuse(is_value(value), value, NOT_A_VALUE)?;
    }
    if let Some(seconds) = toleration_seconds {
        let text = seconds.to_string();
        refuse((0..=SECONDS_MAX).contains(seconds), &text, NOT_SECONDS)?;
        let leaves = *effect == Some(TaintEffect::NoExecute);
        refuse(leaves, &text, rules::TOLERATES_FOR.why)?;
    }
    Ok(())
}

fn refuse_unless(
    holds: bool,
    field: &'static str,
    text: &str,
    why: &'static str,
) -> Result<(), Violation> {
    if holds {
        return Ok(());
    }
    let text = text.to_owned();
    Err(Violation::PodOption { field, text, why })
}

/// Kubernetes' "qualified name", of labels, annotations and taints.
fn is_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((domain, name)) => is_subdomain(domain) && is_name(name),
        None => is_name(key),
    }
}

fn is_value(value: &str) -> bool {
    value.is_empty() || is_name(value)
}

fn is_name(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    consists_of(name, NAME_MAX, "-_.")
        && edge(name.chars().next())
        && edge(name.chars().next_back())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::spec::{PeerNetwork, PeerNetworkSpec};

    fn with(change: impl FnOnce(&mut PodOptions)) -> Result<(), Violation> {
        let mut network = PeerNetwork::new("demo", PeerNetworkSpec::default());
        change(network.spec.pod.get_or_insert_default());
        network.validate()
    }

    fn map(key: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn labels_and_annotations_are_as_kubernetes_wants_them() {
        assert_eq!(with(|_| {}), Ok(()));
        let longest = "x".repeat(63);
        for key in ["disk", "a.b/disk_1", "A", &longest] {
            assert_eq!(with(|pod| pod.node_selector = map(key, "")), Ok(()));
            assert_eq!(with(|pod| pod.annotations = map(key, "Ä b")), Ok(()));
        }
        for key in [
            "",
            "-a",
            "a-",
            "a/b/c",
            "/a",
            "A.b/c",
            "a b",
            &"x".repeat(64),
        ] {
            assert!(with(|pod| pod.node_selector = map(key, "")).is_err());
            assert!(with(|pod| pod.annotations = map(key, "")).is_err());
        }
        assert_eq!(with(|pod| pod.node_selector = map("a", "fast.1")), Ok(()));
        for value in ["a b", "-", &"x".repeat(64)] {
            assert!(with(|pod| pod.node_selector = map("a", value)).is_err());
        }
        let large = "x".repeat(ANNOTATION_BYTES_MAX);
        let refused = with(|pod| pod.annotations = map("a", &large));
        assert_eq!(refused, Err(Violation::AnnotationBytes(large.len() + 1)));
    }

    #[test]
    fn secrets_and_classes_have_names() {
        let secrets = |name: &str, count: usize| {
            let named = |n| SecretName {
                name: format!("{name}{}", "1".repeat(n)),
            };
            with(|pod| pod.image_pull_secrets = (0..count).map(named).collect())
        };
        let twice = SecretName {
            name: "registry".into(),
        };
        assert!(with(|pod| pod.image_pull_secrets = vec![twice; 2]).is_err());
        assert_eq!(secrets("registry.1", SECRETS_MAX), Ok(()));
        let (field, most) = ("imagePullSecrets", SECRETS_MAX);
        let refused = Err(Violation::TooMany { field, most });
        assert_eq!(secrets("registry", SECRETS_MAX + 1), refused);
        for bad in ["", "Registry", "a/b", "a..b"] {
            assert!(secrets(bad, 1).is_err(), "{bad:?}");
            assert!(with(|pod| pod.priority_class_name = Some(bad.into())).is_err());
        }
    }

    #[test]
    fn tolerations_follow_kubernetes_rules() {
        let told = |change: fn(&mut Toleration)| {
            let mut toleration = Toleration {
                key: Some("disk".into()),
                ..Toleration::default()
            };
            change(&mut toleration);
            with(|pod| pod.tolerations = vec![toleration])
        };
        assert_eq!(told(|t| t.value = Some("ssd".into())), Ok(()));
        assert_eq!(told(|t| t.operator = TolerationOperator::Exists), Ok(()));
        let any = |t: &mut Toleration| {
            t.key = None;
            t.operator = TolerationOperator::Exists;
        };
        assert_eq!(told(any), Ok(()));
        let for_a_while = |t: &mut Toleration| {
            t.effect = Some(TaintEffect::NoExecute);
            t.toleration_seconds = Some(300);
        };
        assert_eq!(told(for_a_while), Ok(()));
        let why = |refused: Result<(), Violation>| refused.unwrap_err().to_string();
        let no_key = why(told(|t| t.key = None));
        assert!(no_key.contains(rules::TOLERATES_KEY.why), "{no_key}");
        let with_value = why(told(|t| {
            t.operator = TolerationOperator::Exists;
            t.value = Some("ssd".into());
        }));
        assert!(
            with_value.contains(rules::TOLERATES_VALUE.why),
            "{with_value}"
        );
        let stays = why(told(|t| t.toleration_seconds = Some(1)));
        assert!(stays.contains(rules::TOLERATES_FOR.why), "{stays}");
    }
}
