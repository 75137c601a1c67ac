"""What several inits share; the files of this folder are no inits. Imports torch and PEFT, so planning leaves it be."""
