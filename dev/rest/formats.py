"""What headers of these formats look like: the tool tries letters and digits only where it knows no better."""

import schemathesis
from hypothesis import strategies

ETAGS = r'\A(\*|(W/)?"[0-9a-f]{64}"(, ?"[0-9a-f]{4}"){0,2})\Z'
SHA_256 = r"\Asha-256=:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=:\Z"
TAGS = r"\A([a-z]{1,8}(, ?[a-z ]{0,8}[a-z]){0,3})?\Z"

schemathesis.openapi.format("entity-tags", strategies.from_regex(ETAGS))
schemathesis.openapi.format("sha-256", strategies.from_regex(SHA_256))
schemathesis.openapi.format("tags", strategies.from_regex(TAGS))

# Bytes under another name.
schemathesis.serializer.alias("application/partial-upload", "application/octet-stream")
