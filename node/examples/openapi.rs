//! Prints the description of the REST interface, which is committed as `docs/openapi.json`; see `dev/generate`.

fn main() {
    print!("{}", peernet_node::openapi());
}
