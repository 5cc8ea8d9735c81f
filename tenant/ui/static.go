package ui

import (
	"io/fs"
	"mime"
	"net/http"
	"path"
	"time"
)

// The page's files come from the build and are served as they are. They hold
// nothing of the owner's, so that they need no session.

func (s *Server) page(w http.ResponseWriter, _ *http.Request) { s.file(w, "index.html") }

func (s *Server) licenses(w http.ResponseWriter, _ *http.Request) { s.file(w, "licenses.txt") }

func (s *Server) asset(w http.ResponseWriter, r *http.Request) {
	s.file(w, "assets/"+r.PathValue("file"))
}

func (s *Server) file(w http.ResponseWriter, name string) {
	data, err := fs.ReadFile(s.files, name)
	if err != nil { // also a name that is no path, which fs.ReadFile refuses
		refuse(w, http.StatusNotFound, "no such file", "")
		return
	}
	kind := mime.TypeByExtension(path.Ext(name))
	switch path.Ext(name) { // not left to this machine's tables
	case ".html":
		kind = "text/html; charset=utf-8"
	case ".js":
		kind = "text/javascript; charset=utf-8"
	case ".css":
		kind = "text/css; charset=utf-8"
	case ".svg":
		kind = "image/svg+xml"
	case ".txt":
		kind = "text/plain; charset=utf-8"
	}
	w.Header().Set("Content-Type", kind)
	// Anybody on this machine may ask; who does not take the answer loses it.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	_, _ = w.Write(data)
}
