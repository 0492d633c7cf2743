//! What users add to the pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LocalObjectReference, PodSpec, PodTemplateSpec, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use peernet_crd::{PodOptions, SecretName};

/// The template with that. What is left out leaves no trace: a template that changes restarts every peer.
pub(super) fn with(template: PodTemplateSpec, wanted: &PodOptions) -> PodTemplateSpec {
    let PodOptions {
        image_pull_secrets,
        node_selector,
        tolerations,
        priority_class_name,
        annotations,
    } = wanted;
    let PodTemplateSpec { metadata, spec } = template;
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            annotations: map(annotations),
            ..metadata.unwrap_or_default()
        }),
        spec: Some(PodSpec {
            image_pull_secrets: list(image_pull_secrets, |SecretName { name }| {
                LocalObjectReference { name: name.clone() }
            }),
            node_selector: map(node_selector),
            tolerations: list(tolerations, toleration),
            priority_class_name: priority_class_name.clone(),
            ..spec.unwrap_or_default()
        }),
    }
}

fn map(all: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!all.is_empty()).then(|| all.clone())
}

fn list<A, B>(all: &[A], each: impl Fn(&A) -> B) -> Option<Vec<B>> {
    (!all.is_empty()).then(|| all.iter().map(each).collect())
}

fn toleration(wanted: &peernet_crd::Toleration) -> Toleration {
    let peernet_crd::Toleration {
        key,
        operator,
        value,
        effect,
        toleration_seconds,
    } = wanted;
    Toleration {
        key: key.clone(),
        operator: Some(operator.as_str().into()),
        value: value.clone(),
        effect: effect.map(|effect| effect.as_str().into()),
        toleration_seconds: *toleration_seconds,
    }
}
