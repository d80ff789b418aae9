print("safebackup")
