complete --keep-order --exclusive --command portdistrict --arguments "(COMPLETE=fish portdistrict -- (commandline --current-process --tokenize --cut-at-cursor) (commandline --current-token))"
