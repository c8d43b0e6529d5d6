# METADATA
# description: >-
#   What OPA's own API lets anyone do: ask for decisions, and see how it is. Nobody changes policies or data there.
package system.authz

default allow := false

allow if {
	input.method in {"GET", "POST"}
	array.slice(input.path, 0, 4) == ["v1", "data", "soma", "policy"]
}

allow if {
	input.method == "GET"
	input.path in {["health"], ["metrics"], ["v1", "status"]}
}
