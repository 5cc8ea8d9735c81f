// Package keeper is the process that holds one VM's volume keys.
package keeper
