// etcd, from its module: its own command cannot be installed by version, for its go.mod has replacements.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
