//! The committed definition is the one that the types describe.

#[test]
fn committed_definitions_are_fresh() {
    let generated = serde_yaml::to_string(&peernet_crd::definition()).unwrap();
    for path in ["manifests/crd.yaml", "charts/peernet/files/crd.yaml"] {
        let file = format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"));
        let committed = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            committed == generated,
            "{path} is stale: write it anew with `peernet-operator crd`"
        );
    }
}
