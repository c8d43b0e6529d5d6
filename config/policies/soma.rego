# METADATA
# description: >-
#   Whether a subject may do something. What no rule permits is denied, and a tenant's own policy can only deny more.
package soma.policy

# A scope is the action itself or, as `memory.*`, all that begin so.
actions := {
	"audit.read",
	"constitution.load",
	"conversation.send",
	"llm.invoke",
	"memory.delete",
	"memory.export",
	"memory.read",
	"memory.write",
	"settings.read",
	"settings.update",
	"tool.catalog.update",
	"tool.execute",
}

allow := {"allow": permitted, "reasons": reasons, "obligations": obligations}

default permitted := false

permitted if count(denials) == 0

reasons := sort(denials)

default obligations := {}

obligations := data.tenants[input.subject.tenant].obligations if permitted

# Each says what is missing, so that an input with less in it, or with values of another type, is denied. What is negated
# is a rule of its own: `not f(input.x)` is undefined, not true, where there is no x.
denials contains "the subject has no id" if not subject_named

denials contains "the subject has no tenant" if not subject_has_tenant

denials contains "the resource has no tenant" if not resource_has_tenant

denials contains "the resource is another tenant's" if not same_tenant

denials contains "the action is unknown" if not known

denials contains "no scope covers the action" if not scoped

denials contains "the action needs the role admin" if {
	administers
	not administrator
}

denials contains "the tenant is suspended" if data.tenants[input.subject.tenant].suspended

denials contains "the tenant does not allow the action" if {
	input.action in data.tenants[input.subject.tenant].denied_actions
}

denials contains "the tenant does not allow the tool" if {
	input.action == "tool.execute"
	not tool_allowed
}

denials contains sprintf("%v", [reason]) if {
	verdict := data.tenant_policies[input.subject.tenant].deny
	is_set(verdict)
	some reason in verdict
}

# A tenant's `deny` that is no set has no members to find; it denies all the same.
denials contains "the tenant's policy denies" if {
	verdict := data.tenant_policies[input.subject.tenant].deny
	not is_set(verdict)
	verdict != false
}

subject_named if named(input.subject.id)

subject_has_tenant if named(input.subject.tenant)

resource_has_tenant if named(input.resource.tenant)

named(value) if {
	is_string(value)
	value != ""
}

same_tenant if input.subject.tenant == input.resource.tenant

known if input.action in actions

known if administers

administers if {
	startswith(input.action, "admin.")
	input.action != "admin."
}

administrator if {
	is_array(input.subject.roles)
	"admin" in input.subject.roles
}

default scopes := []

scopes := input.subject.scopes if is_array(input.subject.scopes)

scoped if input.action in scopes

scoped if {
	some scope in scopes
	is_string(scope)
	endswith(scope, ".*")
	startswith(input.action, trim_suffix(scope, "*"))
}

tool_allowed if {
	named(input.resource.id)
	not input.resource.id in denied_tools
}

default denied_tools := []

denied_tools := data.tenants[input.subject.tenant].denied_tools
