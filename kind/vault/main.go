// Command vault is HashiCorp Vault, server and command, for the local cluster: its minimal build, and authentication by
// Kubernetes, which that build leaves out. It is less than half the size of the whole, and has key-value, transit, PKI
// and SSH secrets, raft and in-memory storage, and no UI.
//
// Vault's module takes its own sdk from a folder inside it, which a build from the registry does not have. v1.21.2 is
// the newest release that fits a published sdk, v0.20.0; later ones were cut between two. `go mod tidy` would take the sdk
// its tests want, which does not fit: change versions with `go get -tags minimal`.
package main

import (
	"os"
	"reflect"
	"unsafe"

	kubernetes "github.com/hashicorp/vault-plugin-auth-kubernetes"
	"github.com/hashicorp/vault/command"
	"github.com/hashicorp/vault/helper/builtinplugins"
	"github.com/hashicorp/vault/sdk/logical"
)

// addAuth puts an authentication method into the registry of built-in plugins, as the full build does. The registry's
// map is private; a release that names it otherwise fails at the first start.
func addAuth(name string, factory logical.Factory) {
	methods := reflect.ValueOf(builtinplugins.Registry).Elem().FieldByName("credentialBackends")
	methods = reflect.NewAt(methods.Type(), unsafe.Pointer(methods.UnsafeAddr())).Elem()
	method := reflect.New(methods.Type().Elem()).Elem()
	method.FieldByName("Factory").Set(reflect.ValueOf(factory))
	methods.SetMapIndex(reflect.ValueOf(name), method)
}

func main() {
	addAuth("kubernetes", kubernetes.Factory)
	os.Exit(command.Run(os.Args[1:]))
}
