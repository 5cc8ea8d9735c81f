// Package web holds the owner's page, as `make web` built it from the sources
// beside this file. It trusts nothing and holds no data: package tenant/ui
// serves it.
package web

import (
	"embed"
	"io/fs"
)

//go:embed all:dist
var dist embed.FS

// Files returns the built page: index.html, licenses.txt and assets.
func Files() (fs.FS, error) { return fs.Sub(dist, "dist") }
