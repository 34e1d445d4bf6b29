from falconas.cli import main

main()
